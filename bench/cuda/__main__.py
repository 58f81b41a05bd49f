"""Everything that a machine with a GPU has to show, in one command. Writes as JSON what it has after every part."""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

PARTS = (
    *("facts", "logits", "plain", "weights", "tokens", "batches", "memory", "gaps", "speed", "streams", "prefill"),
    *("measuring", "measuring_large", "converting"),
)


def main() -> int:
    """Returns 1 if a part failed or found something wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda", description=__doc__)
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--model", type=Path, default=Path("build/cuda-bench"), help="folder for the large ensemble")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to run")
    parser.add_argument("--rounds", type=int, default=5, help="of every comparison of speeds")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    good = True
    for name, part in _parts(arguments).items():
        if name not in arguments.parts:
            continue
        begun = time.perf_counter()
        try:
            results[name] = part()
        except Exception:  # the other parts can still tell something
            results[name] = {"error": traceback.format_exc(), "ok": False}
        good = good and _good(results[name])
        seconds = time.perf_counter() - begun
        arguments.out.write_text(json.dumps(results, indent=1))
        print(f"{name}: {json.dumps(results[name])} ({seconds:.1f} s)", file=sys.stderr, flush=True)  # noqa: T201
    return 0 if good else 1


def _parts(arguments: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """What to run, in order. Imports nothing before it is needed: the first part tells why the others cannot run."""

    def facts() -> dict[str, Any]:
        from flexquant.engine.exllamav2.extension import load_extension
        from flexquant.engine.exllamav2.facts import gpu_facts

        found = gpu_facts()
        begun = time.perf_counter()
        load_extension()
        return asdict(found) | {"load_or_compile_s": time.perf_counter() - begun, "ok": not found.missing}

    def demo() -> Any:
        from bench.cuda.ensemble import DEMO
        from flexquant.engine.ensemble import Ensemble

        return Ensemble.open(DEMO)

    def large() -> Any:
        from bench.cuda.ensemble import write_large
        from flexquant.engine.ensemble import Ensemble

        return Ensemble.open(write_large(arguments.model))

    def answers(name: str) -> Callable[[], Any]:
        def run() -> Any:
            from bench.cuda import answers

            return getattr(answers, name)(demo())

        return run

    def memory() -> list[Any]:
        from bench.cuda.ensemble import BLOCKS, PROJECTIONS
        from bench.cuda.moving import given_back

        ensemble = large()
        return [
            given_back(ensemble, sequence, keep_copies=keep)
            for sequence in (BLOCKS, PROJECTIONS)
            for keep in (False, True)
        ]

    def gaps() -> list[Any]:
        from bench.cuda.ensemble import BLOCKS, PROJECTIONS
        from bench.cuda.moving import between_tokens

        ensemble = large()
        return [
            between_tokens(ensemble, sequence, sweeps=arguments.rounds, keep_copies=keep)
            for sequence in (BLOCKS, PROJECTIONS)
            for keep in (False, True)
        ]

    def speed() -> Any:
        from bench.cuda.speed import decoding

        return decoding(large(), rounds=arguments.rounds, tokens=256)

    def streams() -> Any:
        from bench.cuda.speed import streams

        return streams(large(), counts=(1, 2, 4, 8), tokens=220)

    def prefill() -> Any:
        from bench.cuda.speed import prefilling

        return prefilling(large(), tokens=2048, rounds=arguments.rounds)

    def measuring() -> Any:
        from bench.cuda.building import measuring

        return measuring()

    def measuring_large() -> Any:
        from bench.cuda.building import measuring_large

        return measuring_large(large().folder)

    def converting() -> Any:
        from bench.cuda.building import converting

        return converting(arguments.model.parent / "cuda-converted")

    return {
        "facts": facts,
        "logits": answers("logits_at_every_position"),
        "plain": answers("plain_exllama_reads_our_stores"),
        "weights": answers("weights_at_every_position"),
        "tokens": answers("tokens_while_moving"),
        "batches": answers("batches"),
        "memory": memory,
        "gaps": gaps,
        "speed": speed,
        "streams": streams,
        "prefill": prefill,
        "measuring": measuring,
        "measuring_large": measuring_large,
        "converting": converting,
    }


def _good(found: Any) -> bool:
    if isinstance(found, list):
        return all(_good(part) for part in found)
    return bool(found.get("ok", True))


if __name__ == "__main__":
    sys.exit(main())
