"""The small machine for trying out pressure."""

import subprocess
import sys
import time

import pytest

from flexquant.server.controller.sample import MemoryReading
from flexquant.server.probes.machine import MachineProbe


def test_a_machine_is_shared_with_the_processes_it_names() -> None:
    used = {None: 10, 7: 20, 8: 30}
    (reading,) = MachineProbe(100, [7, 8], lambda pid: used[pid]).read()
    assert reading == MemoryReading("machine", 40, 100, shared=True)


def test_a_process_that_has_ended_uses_nothing() -> None:
    def used(pid: int | None) -> int:
        if pid is not None:
            raise ProcessLookupError(pid)
        return 10

    assert MachineProbe(100, [7], used).read()[0].available == 90


def test_a_real_process_counts_until_it_ends() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    machine, alone = MachineProbe(1 << 40, [child.pid]), MachineProbe(1 << 40, [])
    try:
        deadline = time.monotonic() + 60
        while alone.read()[0].available - machine.read()[0].available < 1 << 20:  # until the interpreter has started
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        child.communicate(b"\n")
    assert alone.read()[0].available - machine.read()[0].available < 1 << 20


def test_a_machine_that_cannot_see_a_process_says_so() -> None:
    def used(pid: int | None) -> int:
        raise PermissionError(f"process {pid}")

    with pytest.raises(PermissionError):
        MachineProbe(100, [7], used).read()
