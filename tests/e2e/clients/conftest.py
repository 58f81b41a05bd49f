"""Other people's clients talk to the real daemon. Their packages are in `.venv-e2e` alone: `make test-e2e`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.asked_for import unread_unless
from support.keyed_daemon import KeyedDaemon, keyed_daemon


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip what was not asked for by its mark. Once it was, a client that is missing is an error."""
    unread = unread_unless("clients", "other people's clients", module_path, parent)
    if unread is None:
        # Before any client is imported: no test asks a hub. Other tests do, of a hub of their own.
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", LITELLM_LOCAL_MODEL_COST_MAP="True")
    return unread


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedDaemon]:
    with keyed_daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running
