"""The process that exllamav2's converter runs in: it ends with the builder, and says at once what it has to say.

python -m flexquant.ensemble_builder.exllamav2.run_converter MODULE ARGUMENT...
"""

import io
import runpy
import sys

from flexquant.engine.parent_process import end_with_parent


def main() -> None:
    """Run a module as if it had been started with `python -m`."""
    end_with_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # The converter ends some errors with os._exit, which throws away what is still in a buffer.
            stream.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
