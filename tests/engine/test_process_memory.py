"""What the process holds, as the kernel counts it."""

import os
import subprocess
import sys

import pytest

from flexquant.engine.memory.arena import Arena
from flexquant.engine.memory.process import anonymous_bytes

MIB = 1024 * 1024


def test_own_process_by_default() -> None:
    assert abs(anonymous_bytes() - anonymous_bytes(os.getpid())) < 4 * MIB


def test_touched_memory_is_counted_and_untouched_memory_is_not() -> None:
    arena = Arena(32 * MIB)
    before = anonymous_bytes()
    arena.prefault()
    grown = anonymous_bytes() - before
    arena.release()
    assert abs(grown - 32 * MIB) < MIB


def test_another_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert anonymous_bytes(child.pid) > 0
        child.communicate(b"\n")
    with pytest.raises(ProcessLookupError):
        anonymous_bytes(child.pid)
