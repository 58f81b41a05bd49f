"""Tests that need more than Python packages run only where their mark is asked for, and are never skipped silently."""

from pathlib import Path

import pytest


class _NotAskedFor(pytest.Module):
    """A file of tests that is left unread."""

    why: str

    def collect(self) -> list[pytest.Item]:
        pytest.skip(self.why, allow_module_level=True)


def unread_unless(mark: str, needs: str, module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """What `pytest_pycollect_makemodule` returns for such tests.

    Args:
        mark: That `pytest -m` has to name.
        needs: What they need, for people. Where they were asked for and it is missing, they fail.
        module_path: Of the file.
        parent: Of the file.
    """
    if parent.config.getoption("markexpr") == mark:
        return None
    found: _NotAskedFor = _NotAskedFor.from_parent(parent, path=module_path)
    found.why = f"needs {needs}: `make test-e2e` runs it"
    return found
