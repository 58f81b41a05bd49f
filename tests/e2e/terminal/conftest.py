"""The terminal tools in a real terminal, against the real daemon. tmux is Debian's package: `make test-e2e`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.asked_for import unread_unless
from support.daemon import RunningDaemon, running_daemon
from support.tmux import Terminal, terminal


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip what was not asked for by its mark."""
    return unread_unless("terminal", "tmux", module_path, parent)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with running_daemon(tmp_path_factory.mktemp("daemon"), "--pin", "0") as running:
        yield running


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Terminal]:
    """A shell in 80 columns and 24 rows."""
    with terminal(tmp_path, environment={"XDG_STATE_HOME": str(tmp_path / "state")}) as found:
        yield found
