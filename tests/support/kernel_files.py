"""Files as kernels write them: trees of procfs and control groups for tests, made from small dicts."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest


def write_tree(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write each file below `folder`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def pressure_text(some: int = 0, full: int = 0, avg10: float = 0.0, avg60: float = 0.0) -> str:
    """A pressure file; totals in microseconds, averages of `some` in per cent."""
    return (
        f"some avg10={avg10:.2f} avg60={avg60:.2f} avg300=0.00 total={some}\n"
        f"full avg10=0.00 avg60=0.00 avg300=0.00 total={full}\n"
    )


def v1_mount(point: Path, root: str = "/", controllers: str = "memory") -> str:
    """A line of mountinfo for a hierarchy of version 1."""
    return f"35 31 0:32 {root} {_escaped(point)} rw,relatime shared:9 - cgroup cgroup rw,{controllers}\n"


def v2_mount(point: Path, root: str = "/") -> str:
    """A line of mountinfo for the hierarchy of version 2."""
    return f"41 31 0:38 {root} {_escaped(point)} rw,nosuid,nodev,noexec,relatime - cgroup2 cgroup2 rw,nsdelegate\n"


def v2_group(
    *,
    maximum: str = "max",
    high: str = "max",
    current: int = 0,
    inactive_file: int = 0,
    active_file: int = 0,
    slab_reclaimable: int = 0,
    events: str = "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
) -> dict[str, str]:
    """The memory files of a group of version 2."""
    return {
        "memory.max": f"{maximum}\n",
        "memory.high": f"{high}\n",
        "memory.current": f"{current}\n",
        "memory.stat": f"anon 1\nfile 2\ninactive_file {inactive_file}\nactive_file {active_file}\n"
        f"slab_reclaimable {slab_reclaimable}\n",
        "memory.events": events,
    }


def v1_group(
    *,
    limit: int = 9223372036854771712,
    usage: int = 0,
    inactive_file: int = 0,
    active_file: int = 0,
    failures: int = 0,
    kills: int = 0,
) -> dict[str, str]:
    """The memory files of a group of version 1; its own file pages are 1 byte, the rest is in groups below."""
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{usage}\n",
        "memory.stat": "inactive_file 1\nactive_file 1\n"
        f"total_inactive_file {inactive_file}\ntotal_active_file {active_file}\n",
        "memory.failcnt": f"{failures}\n",
        "memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n",
    }


def within(folder: str, files: Mapping[str, str]) -> dict[str, str]:
    """The same files in a folder."""
    return {f"{folder}/{name}": text for name, text in files.items()}


def refuse(monkeypatch: pytest.MonkeyPatch, path: Path, code: int) -> None:
    """Let reading this one file fail with the error `code`, although it exists."""
    real = Path.read_text

    def read_text(self: Path, *args: Any, **options: Any) -> str:
        if self == path:
            raise OSError(code, os.strerror(code), str(path))
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "read_text", read_text)


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\134").replace(" ", "\\040")
