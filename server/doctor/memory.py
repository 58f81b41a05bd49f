"""Where the daemon would learn about memory, and what is read there now."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from flexquant.server.controller.parameters import MIB
from flexquant.server.doctor.section import Section
from flexquant.server.monitor import Monitor, Readings


def memory_sources(monitor: Monitor) -> Section:
    """One finding per source and kind of reading."""
    readings = monitor.read()
    sources: dict[str, dict[str, Any]] = {name: {} for name in monitor.names}
    for reading in readings.memory:
        sources.setdefault(reading.source, {})["memory"] = asdict(reading)
    for stress in readings.stress:
        known = {field: value for field, value in asdict(stress).items() if value is not None}
        sources.setdefault(stress.source, {})["stress"] = known
    for name, error in readings.failures.items():
        sources.setdefault(name, {})["error"] = error
    return Section("memory", tuple(_findings(readings, monitor)), {"sources": sources})


def _findings(readings: Readings, monitor: Monitor) -> Iterator[tuple[str, str]]:
    answered = set()
    for reading in readings.memory:
        answered.add(reading.source)
        alone = "" if reading.shared else ", this daemon's alone"
        yield reading.source, f"{reading.available // MIB} MiB available of {reading.total // MIB}{alone}"
    for stress in readings.stress:
        answered.add(stress.source)
        known = asdict(stress)
        known.pop("source")
        said = ", ".join(f"{field} {value}" for field, value in known.items() if value is not None)
        yield stress.source, f"stress: {said or 'nothing known'}"
    for name, error in readings.failures.items():
        answered.add(name)
        yield name, f"does not answer: {error}"
    for name in monitor.names:
        if name not in answered:
            yield name, "nothing to read now"
