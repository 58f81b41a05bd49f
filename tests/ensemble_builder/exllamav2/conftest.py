"""What the tests of exllamav2's converter have in common."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.converting import python_path
from support.tiny_checkpoint import tiny_checkpoint


@pytest.fixture(scope="session", autouse=True)
def stand_in_is_found() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "PYTHONPATH", python_path())
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")
