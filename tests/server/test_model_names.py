"""By which names requests may mean the model, and under which it is listed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flexquant.server.model_names import names_of
from support.fake_daemon import FakeDaemon, fake_daemon


def test_a_folder_is_known_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    assert names_of(str(tmp_path / "mine"), "model") == {"model", "mine"}
    assert names_of(f"{tmp_path}/mine/", "model") == {"model", "mine"}
    assert names_of(str(tmp_path / "link"), "model") == {"model", "link"}
    monkeypatch.chdir(tmp_path / "mine")
    assert names_of(".", "model") == {"model", "mine"}


def test_a_model_of_the_hub_is_known_with_and_without_its_organisation(tmp_path: Path) -> None:
    assert names_of("org/name", "org/name") == {"org/name", "name"}
    assert names_of("org/name@4.0bpw", "org/name") == {"org/name", "name", "org/name@4.0bpw"}
    (tmp_path / "built").mkdir()
    assert names_of(str(tmp_path / "built"), "org/name") == {"org/name", "name", "built"}
    assert names_of("org/a@8.0bpw,org/a@3.0bpw", "org/a") == {"org/a", "a"}


def test_the_demo_is_known_as_the_demo() -> None:
    assert names_of("demo", "docs-llama") == {"demo", "docs-llama"}


def get(daemon: FakeDaemon, path: str) -> tuple[int, Any]:
    return ask(daemon, "GET", path)


def ask(daemon: FakeDaemon, method: str, path: str, **options: Any) -> tuple[int, Any]:
    async def run() -> tuple[int, Any]:
        async with daemon.client() as client:
            answer = await client.request(method, path, **options)
            return answer.status_code, answer.json()

    return asyncio.run(run())


def test_id_and_chosen_aliases_are_listed_and_every_name_is_found() -> None:
    with fake_daemon("--alias", "gpt-4o,org/other") as daemon:
        status, listed = get(daemon, "/v1/models")
        assert status == 200
        assert [model["id"] for model in listed["data"]] == ["docs-llama", "gpt-4o", "org/other"]
        assert {model["root"] for model in listed["data"]} == {"docs-llama"}
        for model in listed["data"]:
            assert get(daemon, f"/v1/models/{model['id']}") == (200, model)
        assert get(daemon, "/v1/models/demo")[1]["id"] == "demo"
        assert "demo" in listed["data"][0]["aliases"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [40]}),
    ],
)
def test_requests_by_each_name_are_answered_and_others_get_404(path: str, body: dict[str, Any]) -> None:
    with fake_daemon("--alias", "gpt-4o") as daemon:
        for name in ("docs-llama", "demo", "gpt-4o", None):
            assert ask(daemon, "POST", path, json={**body, "model": name})[0] == 200
        for name in ("gpt-4", "DEMO", ""):
            status, answer = ask(daemon, "POST", path, json={**body, "model": name})
            assert (status, answer["error"]["code"], answer["error"]["param"]) == (404, "model_not_found", "model")
            assert "'docs-llama'" in answer["error"]["message"]
    with fake_daemon("--accept-any-model") as daemon:
        status, answer = ask(daemon, "POST", path, json={**body, "model": "gpt-4"})
        assert status == 200
        assert answer.get("model", "docs-llama") == "docs-llama"


def test_any_name_is_found_where_any_name_is_accepted() -> None:
    with fake_daemon("--accept-any-model") as daemon:
        assert get(daemon, "/v1/models/whatever")[1]["root"] == "docs-llama"
        assert [model["id"] for model in get(daemon, "/v1/models")[1]["data"]] == ["docs-llama"]
