"""Which sources a machine has."""

import errno
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexquant.server.controller.sample import MemoryReading
from flexquant.server.monitor import Monitor
from flexquant.server.probes.discover import Roots, discover
from support.kernel_files import pressure_text, refuse, v1_group, v1_mount, v2_group, v2_mount, within, write_tree

HOST = SimpleNamespace(available=6000, total=8000)
VMSTAT = {"proc/vmstat": "pswpin 0\npswpout 2\n"}
PRESSURE = {"proc/pressure/memory": pressure_text(some=5)}
CONTROLLERS = {"cg/cgroup.controllers": "cpu memory pids\n"}


def roots(folder: Path, files: Mapping[str, str | bytes]) -> Roots:
    write_tree(folder, files)
    return Roots(proc=folder / "proc", virtual_memory=lambda: HOST, platform="linux")


def membership(own: str, table: str) -> dict[str, str]:
    return {"proc/self/cgroup": own, "proc/self/mountinfo": table}


def names(found: Roots) -> list[str]:
    return [probe.name for probe in discover(found)]


def memory(found: Roots) -> dict[str, tuple[int, int]]:
    """Every domain's available and total bytes."""
    readings = Monitor(discover(found)).read()
    assert readings.failures == {}
    return {reading.source: (reading.available, reading.total) for reading in readings.memory}


def test_linux_with_version_2_has_all(tmp_path: Path) -> None:
    """A service in a slice that is tighter than the service itself."""
    files = membership("0::/system.slice/llm.service\n", v2_mount(tmp_path / "cg"))
    files |= CONTROLLERS | VMSTAT | PRESSURE
    files |= within("cg/system.slice/llm.service", v2_group(maximum="5000", current=1000))
    files |= within("cg/system.slice", v2_group(high="3000", current=2000))
    found = roots(tmp_path, files)
    assert names(found) == ["host", "psi", "cgroup"]
    assert memory(found) == {
        "host": (6000, 8000),
        "cgroup /system.slice/llm.service": (4000, 5000),
        "cgroup /system.slice": (1000, 3000),
    }
    stress = {reading.source: reading for reading in Monitor(discover(found)).read().stress}
    assert stress["psi"].some_us == 5
    assert (stress["host"].swapped_out or 0) > 0
    assert stress["cgroup /system.slice"].events == 0


def test_linux_with_version_1(tmp_path: Path) -> None:
    files = membership("4:memory:/docker/x\n", v1_mount(tmp_path / "memory")) | VMSTAT
    files |= within("memory/docker/x", v1_group(limit=2000, usage=500))
    files |= within("memory/docker", v1_group()) | within("memory", v1_group())
    assert memory(roots(tmp_path, files)) == {"host": (6000, 8000), "cgroup /docker/x": (1500, 2000)}


def test_hybrid_systems_limit_memory_by_version_1(tmp_path: Path) -> None:
    table = v1_mount(tmp_path / "memory") + v2_mount(tmp_path / "unified")
    files = membership("4:memory:/a\n0::/\n", table) | {"unified/cgroup.controllers": "hugetlb\n"} | VMSTAT
    files |= within("memory/a", v1_group(limit=2000)) | within("memory", v1_group())
    assert memory(roots(tmp_path, files)) == {"host": (6000, 8000), "cgroup /a": (2000, 2000)}


def test_a_container_with_a_namespace(tmp_path: Path) -> None:
    files = membership("0::/\n", v2_mount(tmp_path / "cg")) | CONTROLLERS | VMSTAT | PRESSURE
    files |= within("cg", v2_group(maximum="2000", current=500))
    assert memory(roots(tmp_path, files)) == {"host": (6000, 8000), "cgroup /": (1500, 2000)}


def test_a_container_of_version_1_sees_its_part_of_the_tree(tmp_path: Path) -> None:
    files = membership("4:memory:/docker/x\n", v1_mount(tmp_path / "memory", root="/docker/x")) | VMSTAT
    files |= within("memory", v1_group(limit=2000))
    assert memory(roots(tmp_path, files)) == {"host": (6000, 8000), "cgroup /docker/x": (2000, 2000)}


def test_a_group_outside_the_mount_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = membership("0::/../..\n", v2_mount(tmp_path / "cg")) | CONTROLLERS | VMSTAT
    files |= within("cg", v2_group(maximum="2000"))
    assert names(roots(tmp_path, files)) == ["host"]
    assert "outside" in caplog.text
    assert "--memory-budget" in caplog.text


def test_a_group_that_is_moved_out_of_sight_is_said_while_running(tmp_path: Path) -> None:
    files = membership("0::/\n", v2_mount(tmp_path / "cg")) | CONTROLLERS | VMSTAT
    monitor = Monitor(discover(roots(tmp_path, files)))
    assert monitor.read().failures == {}
    write_tree(tmp_path, {"proc/self/cgroup": "0::/../elsewhere\n"})
    readings = monitor.read()
    assert [reading.source for reading in readings.memory] == ["host"]
    assert "OutsideMountError" in readings.failures["cgroup"]


def test_where_a_tree_is_mounted_twice_the_fuller_view_counts(tmp_path: Path) -> None:
    table = v2_mount(tmp_path / "part", root="/a/b") + v2_mount(tmp_path / "cg")
    files = membership("0::/a/b\n", table) | CONTROLLERS | VMSTAT | {"part/cgroup.controllers": "memory\n"}
    files |= within("part", v2_group(maximum="5000"))
    files |= within("cg/a/b", v2_group(maximum="5000")) | within("cg/a", v2_group(maximum="3000"))
    assert memory(roots(tmp_path, files)) == {
        "host": (6000, 8000),
        "cgroup /a/b": (5000, 5000),
        "cgroup /a": (3000, 3000),
    }


def test_wsl2(tmp_path: Path) -> None:
    """No pressure files on its older kernels, a controller of every kind at its root, no limits."""
    table = v1_mount(tmp_path / "memory") + v2_mount(tmp_path / "unified")
    files = membership("4:memory:/\n0::/\n", table) | VMSTAT | {"unified/cgroup.controllers": "\n"}
    files |= within("memory", v1_group(usage=700))
    found = roots(tmp_path, files)
    assert names(found) == ["host", "cgroup"]
    assert memory(found) == {"host": (6000, 8000)}


def test_zfs(tmp_path: Path) -> None:
    """What its cache holds counts as used, in host and group alike: the daemon gives back too early, never too late."""
    files = membership("0::/a\n", v2_mount(tmp_path / "cg")) | CONTROLLERS | VMSTAT
    files |= {"proc/spl/kstat/zfs/arcstats": "size 4 2000\n"}
    files |= within("cg/a", v2_group(maximum="4000", current=1000))
    assert memory(roots(tmp_path, files)) == {"host": (6000, 8000), "cgroup /a": (3000, 4000)}


def test_a_kernel_started_without_pressure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = membership("0::/a\n", v2_mount(tmp_path / "cg")) | CONTROLLERS | VMSTAT | PRESSURE
    files |= within("cg/a", v2_group(maximum="4000") | {"memory.pressure": ""})
    found = roots(tmp_path, files)
    for place in ("proc/pressure/memory", "cg/a/memory.pressure"):
        refuse(monkeypatch, tmp_path / place, errno.EOPNOTSUPP)
    assert names(found) == ["host", "cgroup"]
    assert Monitor(discover(found)).read().stress[-1].some_us is None
    assert caplog.text == ""


def test_pressure_that_may_not_be_read_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = roots(tmp_path, membership("", "") | VMSTAT | PRESSURE)
    refuse(monkeypatch, tmp_path / "proc/pressure/memory", errno.EACCES)
    assert names(found) == ["host"]
    assert "pressure stall information is left out: PermissionError" in caplog.text


def test_a_linux_that_tells_nothing_still_has_its_host(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert memory(roots(tmp_path, {})) == {"host": (6000, 8000)}
    assert "limits of control groups are left out: FileNotFoundError" in caplog.text


@pytest.mark.parametrize(("number", "level"), [(1, "normal"), (2, "warn"), (4, "critical")])
def test_macos(number: int, level: str) -> None:
    probes = discover(Roots(platform="darwin", virtual_memory=lambda: HOST, sysctl=lambda _: number))
    readings = Monitor(probes).read()
    assert readings.memory == (MemoryReading("host", 6000, 8000),)
    assert [(reading.source, reading.level) for reading in readings.stress] == [("macos", level)]


def test_an_unknown_level_of_macos_is_left_out_and_said() -> None:
    probes = discover(Roots(platform="darwin", virtual_memory=lambda: HOST, sysctl=lambda _: 3))
    readings = Monitor(probes).read()
    assert [reading.source for reading in readings.memory] == ["host"]
    assert "is 3" in readings.failures["macos"]


def test_windows_has_its_host() -> None:
    assert names(Roots(platform="win32", virtual_memory=lambda: HOST)) == ["host"]


def test_this_machine_answers() -> None:
    readings = Monitor(discover(Roots())).read()
    assert readings.failures == {}
    assert readings.memory[0].source == "host"
    if sys.platform == "linux":
        assert all(reading.total > 0 for reading in readings.memory)


FILES = [
    "proc/vmstat",
    "proc/pressure/memory",
    "proc/self/cgroup",
    "proc/self/mountinfo",
    "cg/cgroup.controllers",
    *(f"cg/{name}" for name in (*v2_group(), "memory.events.local", "memory.pressure")),
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(FILES), st.binary(max_size=40)), st.booleans())
def test_arbitrary_bytes_never_stop_the_monitor(
    tmp_path_factory: pytest.TempPathFactory, damage: dict[str, bytes], late: bool
) -> None:
    folder = tmp_path_factory.mktemp("machine")
    files: dict[str, str | bytes] = {}
    files |= membership("0::/\n", v2_mount(folder / "cg")) | CONTROLLERS | VMSTAT | PRESSURE
    files |= within("cg", v2_group(maximum="2000"))
    if late:
        monitor = Monitor(discover(roots(folder, files)))
        write_tree(folder, damage)
    else:
        monitor = Monitor(discover(roots(folder, files | damage)))
    readings = monitor.read()
    answering = {reading.source for reading in readings.memory}
    assert answering <= {"host", "cgroup /"}
    assert "host" in answering | readings.failures.keys()
