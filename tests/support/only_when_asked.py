"""Tests that need what only `make test-e2e` installs are left unread by everything else."""

from pathlib import Path
from typing import Final

import pytest

MARK: Final = "clients"


class _NotAskedFor(pytest.Module):
    """A file of tests that is left unread."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip("needs other people's clients: `make test-e2e` runs it", allow_module_level=True)


def unless_asked_for(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """For `pytest_pycollect_makemodule`: leave out, before it imports anything, a file whose mark is not asked for."""
    if parent.config.getoption("markexpr") == MARK:
        return None
    return _NotAskedFor.from_parent(parent, path=module_path)
