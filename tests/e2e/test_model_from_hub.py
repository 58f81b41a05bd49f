"""One command from the name of a model on the hub to an elastic server; the hub is a stand-in."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import clean_environment, running_daemon, serve_command
from support.hub import Hub, Repository, files_of, running_hub
from support.small_checkpoint import DOCS_LLAMA, small_checkpoint

pytestmark = pytest.mark.e2e


BUILD_SECONDS = 800.0
"""For the whole model, on a busy machine; a quiet one needs a twentieth."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub({}) as hub:
        yield hub


def test_one_command_from_the_hub_to_a_server_that_needs_no_network_later(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/small"] = Repository({"main": files_of(small_checkpoint(tmp_path / "made"))})
    check_served_twice(hub, tmp_path, "small")


@pytest.mark.slow
@pytest.mark.timeout(2 * BUILD_SECONDS)
def test_the_same_with_a_model_that_learned_something(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/docs-llama"] = Repository({"main": files_of(DOCS_LLAMA)})
    check_served_twice(hub, tmp_path, "docs-llama")


def check_served_twice(hub: Hub, tmp_path: Path, name: str) -> None:
    """A daemon that downloads, builds and serves org/NAME, and a second one that touches no network."""
    model = f"org/{name}"
    environment = hub.environment(tmp_path / "hf", XDG_CACHE_HOME=str(tmp_path / "cache"))
    body = {"prompt": "The function", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    answers = []
    for use in ("first", "second"):
        hub.requests.clear()
        folder = tmp_path / use
        folder.mkdir()
        with running_daemon(
            folder, "--pin", "0", model=model, environment=environment, start_seconds=BUILD_SECONDS
        ) as daemon:
            for asked in (model, name):
                answer = daemon.post("/v1/completions", {**body, "model": asked}).json()
                assert answer["model"] == model
                answers.append(answer["choices"])
            refused = daemon.post("/v1/completions", {**body, "model": "org/other"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
            assert [entry["id"] for entry in daemon.get("/v1/models").json()["data"]] == [model]
            assert daemon.get(f"/v1/models/{model}").json()["root"] == model
            assert daemon.get("/v1/elastic").json()["max_position"] > 0
            assert (f"downloading {model}: " in daemon.log()) == (use == "first")
        assert bool(hub.requests) == (use == "first")
    assert answers == [answers[0]] * 4


def test_what_the_hub_does_not_give_ends_with_a_hint(hub: Hub, tmp_path: Path) -> None:
    environment = hub.environment(tmp_path / "hf", XDG_CACHE_HOME=str(tmp_path / "cache"))
    hub.repositories["org/gated"] = Repository({"main": files_of(DOCS_LLAMA)}, gated=True)
    ended = subprocess.run(
        serve_command("--model", "org/gated", "--port", "0"),
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment(environment),
    )
    assert ended.returncode == 3
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert any(line.startswith("error: org/gated: this model is gated") for line in lines)
    assert any(line.startswith("hint: ") and "HF_TOKEN" in line for line in lines)
    assert "Traceback" not in ended.stderr
