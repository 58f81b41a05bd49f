"""Who may talk to the daemon."""

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient

from flexquant.engine.errors import UsageError
from flexquant.server.error_envelope import install_error_handlers
from flexquant.server.keys import Keys, load_keys
from flexquant.server.security import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    Security,
    check_exposure,
    host_names,
    is_loopback,
)
from flexquant.server.settings import load_settings


async def _echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


def client(*, key: str | None = None, admin: str | None = None, hosts: tuple[str, ...] = ("my-machine",)) -> TestClient:
    app = FastAPI(openapi_url=None)
    app.add_route("/{path:path}", _echo, methods=["GET", "POST"])
    install_error_handlers(app)
    keys = Keys.of([key] if key else [], [admin] if admin else [])
    guarded = Security(app, hosts=hosts, keys=keys)
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
    closed = ["/v1/models", "/v1/elastic", "/openapi.json", "/nothing", "/health/", "http://localhost:8000//health"]
    closed += ["/dashboard", "/dashboards/main.js", "/index.html", "http://localhost:8000//"]
    for path in closed:
        answer = guarded.get(path, headers=headers)
        assert answer.status_code == 401, path
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.get("/health", headers=headers).status_code == 200
    assert guarded.get("/ready", headers=headers).status_code == 200
    assert guarded.get("/", headers=headers).status_code == 200
    assert guarded.get("/dashboard/main.js", headers=headers).status_code == 200


MOVE = "/v1/elastic/target"


@pytest.mark.parametrize(("given", "status"), [("admin", 200), ("plain", 403), ("other", 401), (None, 401)])
def test_moving_the_model_asks_for_the_admin_key_where_there_is_one(given: str | None, status: int) -> None:
    headers = {"authorization": f"Bearer {given}"} if given else {}
    answer = client(key="plain", admin="admin").post(MOVE, headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "admin_key_needed"
    if status != 200:
        assert "plain" not in answer.text


def test_the_admin_key_opens_everything_and_the_plain_one_what_changes_nothing() -> None:
    guarded = client(key="plain", admin="admin")
    for key in ("plain", "admin"):
        for path in ("/v1/models", "/v1/elastic", "/v1/elastic/trace", "/metrics"):
            assert guarded.get(path, headers={"x-api-key": key}).status_code == 200
        assert guarded.post("/v1/completions", headers={"x-api-key": key}).status_code == 200


def test_with_an_admin_key_alone_only_moving_is_closed() -> None:
    guarded = client(admin="admin")
    assert guarded.get("/v1/elastic").status_code == guarded.post("/v1/completions").status_code == 200
    assert guarded.post(MOVE).status_code == 401
    assert guarded.post(MOVE, headers={"x-api-key": "admin"}).status_code == 200


def test_without_an_admin_key_the_plain_one_moves_the_model() -> None:
    assert client(key="plain").post(MOVE, headers={"x-api-key": "plain"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("host", "localhost"), *(("x", "") for _ in range(MAX_HEADERS))],
        [("host", "localhost"), ("x", "y" * MAX_HEAD_BYTES)],
    ],
    ids=["lines", "bytes"],
)
def test_head_is_limited(headers: list[tuple[str, str]]) -> None:
    answer = client().get("/x", headers=headers)
    assert answer.status_code == 431
    assert answer.json()["error"]["code"] == "head_too_large"


def test_target_counts_as_part_of_the_head() -> None:
    assert client().get("/x?" + "y" * MAX_HEAD_BYTES).status_code == 431


def exposed(*arguments: str) -> None:
    settings = load_settings(["--model", "demo", *arguments])
    check_exposure(settings, load_keys(settings))


def test_without_a_key_only_loopback_is_served_unless_one_insists() -> None:
    with pytest.raises(UsageError, match=r"0\.0\.0\.0") as refused:
        exposed("--host", "0.0.0.0")
    assert "--allow-unauthenticated" in (refused.value.hint or "")
    with pytest.raises(UsageError):
        exposed("--host", "0.0.0.0", "--admin-key", "k")
    for more in (["--api-key", "k"], ["--allow-unauthenticated"]):
        exposed("--host", "0.0.0.0", *more)
    exposed()


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
