"""`GET /metrics`: what was counted, and the state at the moment somebody asks."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from flexquant.server.daemon_state import DaemonState
from flexquant.server.elastic_state import ElasticState
from flexquant.server.exposition import Gauge, Labels, written

PRESSURE: Final = {"none": 0, "low": 1, "critical": 2}


@dataclass(frozen=True, slots=True)
class Seen:
    """What gauges are read from: all of one moment."""

    daemon: DaemonState
    elastic: ElasticState


def _one(value: float | None) -> list[tuple[Labels, float]]:
    """A gauge without labels; nothing where nothing is known."""
    return [] if value is None else [((), value)]


def _resident(seen: Seen) -> Iterable[tuple[Labels, float]]:
    memory = seen.elastic.memory
    parts = {"weights": memory.elastic, "fixed": memory.fixed, "kv": memory.kv, "scratch": memory.scratch}
    return [((part,), size) for part, size in parts.items()]


def _available(seen: Seen) -> Iterable[tuple[Labels, float]]:
    return [
        ((source.name,), source.available_bytes)
        for source in seen.elastic.sources
        if source.available_bytes is not None
    ]


def _modules(seen: Seen) -> Iterable[tuple[Labels, float]]:
    return [((level,), count) for level, count in seen.daemon.model.modules_by_level(seen.elastic.position).items()]


def _build(seen: Seen) -> Iterable[tuple[Labels, float]]:
    return [((version("flexquant"), seen.daemon.model.id, seen.daemon.model.build), 1)]


GAUGES: Final[tuple[Gauge[Seen], ...]] = (
    Gauge(
        "flexquant_requests_running",
        "Answers that are being computed; each choice of a request is one.",
        lambda seen: _one(seen.daemon.engine.running),
    ),
    Gauge(
        "flexquant_requests_waiting",
        "Answers that wait for their turn.",
        lambda seen: _one(seen.daemon.engine.waiting),
    ),
    Gauge(
        "flexquant_refusing",
        "1 while no new work is taken because memory is critical at the smallest position, else 0.",
        lambda seen: _one(int(seen.elastic.refusing is not None)),
    ),
    Gauge("flexquant_position", "Position that is published: 0 is the best.", lambda seen: _one(seen.elastic.position)),
    Gauge("flexquant_max_position", "The smallest position.", lambda seen: _one(seen.elastic.max_position)),
    Gauge(
        "flexquant_worst_position",
        "The position that is never crossed.",
        lambda seen: _one(seen.elastic.worst_position),
    ),
    Gauge(
        "flexquant_pinned",
        "1 while the position is pinned, else 0.",
        lambda seen: _one(int(seen.elastic.mode == "pinned")),
    ),
    Gauge(
        "flexquant_estimated_perplexity",
        "Perplexity at this position, as the builder measured it.",
        lambda seen: _one(seen.elastic.quality.perplexity),
    ),
    Gauge(
        "flexquant_estimated_kl_nats",
        "Mean KL divergence from the reference model at this position, in nats per token, as the builder measured it.",
        lambda seen: _one(seen.elastic.quality.kl),
    ),
    Gauge("flexquant_modules", "Modules that are resident at each level.", _modules, ("level",)),
    Gauge(
        "flexquant_resident_bytes",
        "Memory by the daemon's books: swappable weights, fixed weights, KV pages and working memory.",
        _resident,
        ("part",),
    ),
    Gauge(
        "flexquant_private_bytes",
        "The process's anonymous memory as the system counts it.",
        lambda seen: _one(seen.elastic.memory.private),
    ),
    Gauge(
        "flexquant_memory_target_bytes",
        "Bytes of weights at the position that was ordered last.",
        lambda seen: _one(seen.daemon.controller.footprints[seen.elastic.target]),
    ),
    Gauge(
        "flexquant_memory_available_bytes",
        "Memory that each source says is available; absent while it does not answer.",
        _available,
        ("source",),
    ),
    Gauge(
        "flexquant_memory_pressure_level",
        "0 none, 1 low, 2 critical; absent while no source answers.",
        lambda seen: _one(PRESSURE.get(seen.elastic.pressure)),
    ),
    Gauge(
        "flexquant_build_info",
        "Always 1; its labels name the version, the model, and what computes from which ensemble.",
        _build,
        ("version", "model", "build"),
    ),
)


def scrape(daemon: DaemonState) -> str:
    """All metrics in the text format; waits for a tick of the controller that is under way."""
    seen = Seen(daemon, daemon.controller.state())
    counted = [written(metric, metric.samples()) for metric in daemon.counts.all]
    return "".join([*counted, *(written(gauge, gauge.samples(seen)) for gauge in GAUGES)])
