"""Puts a long prompt into a model and prints, as JSON, what that took. Run in a process of its own.

python tests/support/prefill_memory.py ENSEMBLE KERNELS TOKENS
"""

import json
import sys
from pathlib import Path

import numpy as np

from flexquant.engine.compute import choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.generation import Generation
from flexquant.engine.memory.process import anonymous_bytes
from support.move_memory import Peak


def main() -> None:
    folder, kernels, tokens = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    model = ElasticModel.load(
        Ensemble.open(folder), kv_pages=tokens, context=tokens, compute=choose_compute(kernels, threads=1)
    )
    with Generation(model, [70] * 8, max_tokens=2) as first:  # what Python and libc allocate once is not the model's
        while first.finished is None:
            first.step()
    scratch = model.resident_bytes().scratch
    held = anonymous_bytes() - model.resident_bytes().kv

    def beyond() -> int:
        """Beyond what was held before, and KV pages: of these, the more of two looks."""
        pages = model.resident_bytes().kv
        found = anonymous_bytes()
        return found - max(pages, model.resident_bytes().kv) - held

    prompt = np.arange(tokens - 2) % 200 + 70
    with Peak(beyond) as peak, Generation(model, prompt.tolist(), max_tokens=2) as long:
        while long.finished is None:
            long.step()
    json.dump({"taken": peak.bytes, "declared": sum(scratch.values())}, sys.stdout)
    model.close()


if __name__ == "__main__":
    main()
