"""Who may talk to the daemon, and how much."""

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient

from flexquant.engine.errors import UsageError
from flexquant.server.error_envelope import install_error_handlers
from flexquant.server.security import Security, check_exposure, host_names, is_loopback
from flexquant.server.settings import load_settings


async def _echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


def client(*, key: str | None = None, hosts: tuple[str, ...] = ("my-machine",), max_body: int = 100) -> TestClient:
    app = FastAPI(openapi_url=None)
    app.add_route("/{path:path}", _echo, methods=["GET", "POST"])
    install_error_handlers(app)
    guarded = Security(app, hosts=hosts, api_key=key, max_body=max_body)
    return TestClient(guarded, base_url="http://localhost:8000")


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST",
        "127.0.0.1:8000",
        "192.168.1.5",
        "[::1]:8000",
        "my-machine",
        "x.localhost",
    ],
)
def test_own_names_and_addresses_are_accepted(host: str) -> None:
    assert client().get("/x", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "my-machine.example", "[", ""]
)
def test_foreign_host_is_refused(host: str) -> None:
    answer = client().get("/health", headers={"host": host})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "host_not_allowed"


def test_any_host_on_request() -> None:
    assert client(hosts=("*",)).get("/x", headers={"host": "evil.example"}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000", "http://localhost"])
def test_foreign_origin_may_not_post(origin: str) -> None:
    answer = client().post("/x", headers={"origin": origin})
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "permission_error"


def test_own_origin_may_post_and_no_origin_too() -> None:
    assert client().post("/x", headers={"origin": "http://localhost:8000"}).status_code == 200
    assert client().post("/x").status_code == 200


@pytest.mark.parametrize(
    "headers", [{"authorization": "Bearer secret"}, {"authorization": "bearer secret"}, {"x-api-key": "secret"}]
)
def test_key_opens(headers: dict[str, str]) -> None:
    assert client(key="secret").get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer secret2"},
        {"authorization": "Basic secret"},
        {"authorization": "Bearer"},
        {"x-api-key": ""},
    ],
)
def test_without_the_key_all_but_health_and_ready_is_closed(headers: dict[str, str]) -> None:
    guarded = client(key="secret")
    for path in ("/v1/models", "/v1/elastic", "/openapi.json", "/nothing", "/health/", "//health"):
        answer = guarded.get(path, headers=headers)
        assert answer.status_code == 401, path
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.get("/health", headers=headers).status_code == 200
    assert guarded.get("/ready", headers=headers).status_code == 200


def test_body_size_is_limited_by_what_is_announced_and_by_what_arrives() -> None:
    guarded = client(max_body=100)
    assert guarded.post("/x", content=b"x" * 100).text == "100"
    announced = guarded.post("/x", content=b"x" * 101)
    arrived = guarded.post("/x", content=(b"x" * 60 for _ in range(2)))
    for answer in (announced, arrived):
        assert answer.status_code == 413
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert "100 bytes" in answer.json()["error"]["message"]


def test_without_a_key_only_loopback_is_served_unless_one_insists() -> None:
    with pytest.raises(UsageError, match=r"0\.0\.0\.0") as refused:
        check_exposure(load_settings(["--model", "demo", "--host", "0.0.0.0"]))
    assert "--allow-unauthenticated" in (refused.value.hint or "")
    for more in (["--api-key", "k"], ["--allow-unauthenticated"]):
        check_exposure(load_settings(["--model", "demo", "--host", "0.0.0.0", *more]))
    check_exposure(load_settings(["--model", "demo"]))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("lan", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_host_names_come_from_the_settings() -> None:
    assert {"127.0.0.1", "box", "box.lan"} <= host_names(
        load_settings(["--model", "demo", "--allow-host", "box,box.lan"])
    )
