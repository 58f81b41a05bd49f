"""`python -m docs.generate`, from the repository's root: renew the generated blocks of all pages."""

import argparse
import sys
from collections.abc import Sequence

from docs.generate.blocks import pages, renewed


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages that are stale and name them. Returns the exit code: with --check, 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description="Renew the generated blocks of docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is stale")
    options = parser.parse_args(arguments)
    stale = False
    for path in pages():
        found = path.read_text(encoding="utf-8")
        made = renewed(found)
        if made == found:
            continue
        stale = True
        if not options.check:
            path.write_text(made, encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    return int(stale and options.check)


if __name__ == "__main__":
    sys.exit(main())
