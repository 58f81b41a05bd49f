"""A checkpoint becomes an ensemble when it is served for the first time, and is served from the cache afterwards."""

from pathlib import Path

import pytest

from support.daemon import running_daemon
from support.small_checkpoint import small_checkpoint

pytestmark = pytest.mark.e2e


def test_checkpoint_is_built_once_and_served(tmp_path: Path) -> None:
    model = str(small_checkpoint(tmp_path / "small"))
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    body = {"model": "small", "prompt": "The", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    answers = []
    for use in ("first", "second"):
        folder = tmp_path / use
        folder.mkdir()
        with running_daemon(folder, model=model, environment=environment) as daemon:
            answers.append(daemon.post("/v1/completions", body).json())
            assert ("building an ensemble" in daemon.log()) == (use == "first")
    assert answers[0]["usage"]["completion_tokens"] == 4
    assert answers[0]["choices"] == answers[1]["choices"]
