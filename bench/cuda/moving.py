"""What moving gives back and what it costs, on the ensemble of 1.1 billion weights."""

import time
from typing import Any

from bench.cuda.models import on_card, settle
from bench.figures import by_key, over_baseline, percentile
from bench.our_swap import Sweep, paced_sweep, steady_sweep
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.exllamav2.card import Card

_TOKENS = 16 * 1024


def given_back(ensemble: Ensemble, sequence: str, *, keep_copies: bool) -> dict[str, Any]:
    """0 to N and back, twice, as fast as it goes: device memory observed against ordered, and time per step."""
    with on_card(ensemble, tokens=_TOKENS, sequence=sequence, keep_copies=keep_copies) as (model, compute):
        last = model.max_position
        settle(model, last)  # files and, if they are kept, copies are there then
        settle(model, 0)
        rounds = []
        for _ in range(2):
            rounds.append(_round(model, last, compute.card))
        ordered = model.footprints[0] - model.footprints[last]
        freed = [found["freed"] for found in rounds]
        return {
            "sequence": sequence,
            "keep_copies": keep_copies,
            "steps": last,
            "ordered_bytes": ordered,
            "freed_bytes": freed,
            "taken_again_bytes": [found["taken"] for found in rounds],
            "returned": min(freed) / ordered,
            "down_ms_per_step": [found["down"] / last * 1e3 for found in rounds],
            "up_ms_per_step": [found["up"] / last * 1e3 for found in rounds],
            "published_ms": _quantiles([time_ for found in rounds for time_ in found["publishing"]]),
            "ok": min(freed) / ordered >= 0.95,
        }


def _round(model: ElasticModel, last: int, card: Card) -> dict[str, Any]:
    publishing: list[float] = []
    before, _ = card.available()
    down = _timed_move(model, last, publishing)
    at_last, _ = card.available()
    up = _timed_move(model, 0, publishing)
    return {
        "freed": at_last - before,
        "taken": at_last - card.available()[0],
        "down": down,
        "up": up,
        "publishing": publishing,
    }


def _timed_move(model: ElasticModel, position: int, publishing: list[float]) -> float:
    """Seconds of a move; adds those of every safe point at which something was published.

    With no budget a safe point waits for the steps to come; a budget of nothing publishes what is ready.
    """
    begun = time.perf_counter()
    done = model.move_to(position, budget_s=0)
    while not done.done():
        reached, at = model.position, time.perf_counter()
        model.safe_point()
        if model.position != reached:
            publishing.append(time.perf_counter() - at)
        else:
            time.sleep(0.0001)
    return time.perf_counter() - begun


def between_tokens(ensemble: Ensemble, sequence: str, *, sweeps: int, keep_copies: bool) -> dict[str, Any]:
    """Tokens while the model goes down and up as the daemon paces moves, beside tokens of a still model."""
    with on_card(ensemble, tokens=_TOKENS, sequence=sequence, keep_copies=keep_copies) as (model, _):
        last = model.max_position
        paced_sweep(model, last)  # kernels are tuned and files are there then
        steady = _both_ways(steady_sweep(model, last))
        paced = [sample for _ in range(sweeps) for sample in _both_ways(paced_sweep(model, last))]
    times, still = [seconds for _, seconds in paced], [seconds for _, seconds in steady]
    baseline = {position: percentile(found, 0.5) for position, found in by_key(steady).items()}
    return {
        "sequence": sequence,
        "keep_copies": keep_copies,
        "tokens": len(paced),
        "moving_ms": _quantiles(times),
        "still_ms": _quantiles(still),
        "over_still": _quantiles(over_baseline(paced, baseline), scale=1),
    }


def _both_ways(sweep: Sweep) -> list[tuple[int, float]]:
    return [*sweep["down"], *sweep["up"]]


def _quantiles(samples: list[float], scale: float = 1e3) -> dict[str, float]:
    return {name: percentile(samples, share) * scale for name, share in (("p50", 0.5), ("p99", 0.99), ("most", 1.0))}
