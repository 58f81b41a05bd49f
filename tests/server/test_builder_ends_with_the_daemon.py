"""A builder that a daemon started does not outlive it, even where the daemon could not say goodbye."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flexquant.engine.parent_process import ending_with_us
from support.tiny_checkpoint import tiny_checkpoint

_DAEMON = "import sys; from flexquant.server.model_source import resolve; resolve(sys.argv[1])"
_PATIENCE_S = 60.0
_SOON_S = 5.0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no system call does this")
def test_a_killed_daemon_takes_its_builder_along(tmp_path: Path) -> None:
    """Its builder waits for a model to write its text, which takes as long as it is told to."""
    model = tiny_checkpoint(tmp_path / "tiny", max_position_embeddings=1024)
    with subprocess.Popen(
        [sys.executable, "-c", _DAEMON, str(model)],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
    ) as daemon:
        deadline = time.monotonic() + _PATIENCE_S
        while not list(tmp_path.glob("flexquant/ensembles/*/.work")) and time.monotonic() < deadline:
            time.sleep(0.02)
        [builder] = psutil.Process(daemon.pid).children()
        assert builder.is_running()
        daemon.kill()
        builder.wait(_SOON_S)
    assert not list(tmp_path.glob("flexquant/ensembles/*/ensemble.json"))


def test_the_environment_names_us() -> None:
    assert ending_with_us({"A": "b"}) == {"A": "b", "FLEXQUANT_PARENT_PID": str(os.getpid())}
