"""The machines of the suites under pressure, and the model that runs on them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.scale import QUICK, BenchShape
from bench.session import Session

MIB: Final = 1 << 20

QUICK_SHAPE: Final = BenchShape(hidden=768, intermediate=2048, layers=8, heads=12, kv_heads=4, vocab=1024, context=4096)
"""Some 50 MB: what is given back must be seen beside everything else that a daemon takes and gives."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A simulated machine and the reserves of the law, in bytes."""

    memory: int
    critical: int
    low: int
    target: int
    high: int

    def flags(self, pids: Sequence[int]) -> list[str]:
        """Of a daemon that shares the machine with these processes."""
        names = ("critical", "low", "target", "high")
        return [
            *(f"--simulated-memory={self.memory}", f"--simulated-pids={','.join(map(str, pids))}"),
            *(f"--reserve-{name}={getattr(self, name)}" for name in names),
        ]

    @property
    def told(self) -> str:
        """For the conditions of a run."""
        reserves = ", ".join(f"R_{name} {getattr(self, name) // MIB}" for name in ("critical", "low", "target", "high"))
        return f"simulated, {self.memory // MIB} MiB for daemon and hog alone; {reserves} MiB"


_FULL: Final = Machine(4096 * MIB, critical=256 * MIB, low=512 * MIB, target=819 * MIB, high=1075 * MIB)
"""The default reserves of a machine with 8 GiB."""
_QUICK: Final = Machine(1024 * MIB, critical=16 * MIB, low=32 * MIB, target=48 * MIB, high=64 * MIB)


def under_pressure(session: Session) -> tuple[Session, Machine]:
    """The session and the machine of suites under pressure: the tiny model of quick runs would give nothing back."""
    if session.scale is not QUICK:
        return session, _FULL
    return replace(session, scale=replace(QUICK, shape=QUICK_SHAPE)), _QUICK


def footprints(ensemble: Path) -> list[int]:
    """Bytes of weights at every position, by an ensemble's manifest."""
    manifest = json.loads((ensemble / "ensemble.json").read_text())
    found: list[int] = manifest["sequences"][manifest["default_sequence"]]["footprint_bytes"]
    return found
