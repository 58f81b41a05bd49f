"""Time per token of the demo on an idle and on a busy machine: the native kernels' threads, and torch's when they sleep
and when they spin.

python bench/thread_waiting.py

Each row is a process of its own, because OpenMP reads its settings when torch is loaded.
"""

import os
import statistics
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

TOKENS = 40


def decode(kernels: str) -> float:
    """Median seconds per token of one request on the demo at position 0."""
    from flexquant.engine.compute import choose_compute
    from flexquant.engine.elastic_model import ElasticModel
    from flexquant.engine.ensemble import Ensemble
    from flexquant.engine.generation import Generation

    demo = Path(str(files("flexquant.server"))) / "demo"
    model = ElasticModel.load(Ensemble.open(demo), kv_pages=4, compute=choose_compute(kernels, os.cpu_count()))
    times = []
    with Generation(model, [0], max_tokens=TOKENS, ignore_eos=True) as generation:
        while not generation.finished:
            start = time.perf_counter()
            generation.step()
            times.append(time.perf_counter() - start)
    model.close()
    return statistics.median(times)


def main() -> None:
    """Print one row per policy and load."""
    if sys.argv[1:2] == ["decode"]:
        sys.stdout.write(f"{decode(sys.argv[2])}\n")
        return
    cores = os.cpu_count() or 1
    for busy in (0, cores):
        for kernels, policy in (("auto", "passive"), ("torch", "passive"), ("torch", "active")):
            others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
            try:
                command = [sys.executable, __file__, "decode", kernels]
                environment = os.environ | {"OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": str(cores)}
                seconds = float(subprocess.check_output(command, env=environment, text=True))
            finally:
                for other in others:
                    other.kill()
                    other.wait()
            sys.stdout.write(
                f"{busy} busy processes, kernels {kernels}, OpenMP waits {policy}: {1000 * seconds:.1f} ms per token\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
