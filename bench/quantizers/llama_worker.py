"""llama.cpp's quantizer in a process of its own: `python -m bench.quantizers.llama_worker SOURCE TARGET TYPE [MATRIX]`.

Needs `llama-cpp-python`, and nothing of ours. MATRIX is an .npz file: of every tensor the mean square of its inputs.
"""

import ctypes
import importlib
import sys
from typing import Any

import numpy as np


def main() -> int:
    """Quantize SOURCE to TYPE, such as Q4_K_M. Prints the version of llama-cpp-python; returns the exit code."""
    source, target, kind, *matrix = sys.argv[1:]
    llama: Any = importlib.import_module("llama_cpp")
    settings = llama.llama_model_quantize_default_params()
    settings.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}")
    if matrix:
        with np.load(matrix[0]) as means:
            kept = {name: np.ascontiguousarray(means[name], dtype=np.float32) for name in means.files}
        entries = (llama.llama_model_imatrix_data * (len(kept) + 1))()  # the last one stays empty: the end
        for entry, (name, values) in zip(entries, kept.items(), strict=False):
            entry.name = name.encode()
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = values.size
        settings.imatrix = entries
    failed = llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings))
    sys.stdout.write(f"{llama.__version__}\n")
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main())
