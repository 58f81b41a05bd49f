"""The dashboard's files: what is served, to whom, and with which headers. What they do is tested in `e2e/browser`."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

import pytest
from fastapi.testclient import TestClient

from flexquant.server.routes.dashboard import MEDIA_TYPES, page_files
from support.fake_daemon import fake_daemon

ROOT: Final = Path(__file__).parents[3]
FOLDER: Final = ROOT / "server" / "dashboard"
NAMES: Final = sorted(path.name for path in FOLDER.iterdir())
KEY: Final = "secret"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with fake_daemon() as daemon:
        yield TestClient(daemon.app, base_url="http://localhost:8000")


@pytest.fixture(scope="module")
def keyed() -> Iterator[TestClient]:
    with fake_daemon("--api-key", KEY) as daemon:
        yield TestClient(daemon.app, base_url="http://localhost:8000")


def path_of(name: str) -> str:
    return "/" if name == "index.html" else f"/dashboard/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_served_as_what_it_is(client: TestClient, name: str) -> None:
    answer = client.get(path_of(name))
    assert answer.status_code == 200
    assert answer.content == (FOLDER / name).read_bytes()
    assert answer.headers["content-type"] == MEDIA_TYPES[name.rpartition(".")[2]]
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = client.head(path_of(name))
    assert (head.status_code, head.headers["etag"]) == (200, answer.headers["etag"])


def policy(headers: Mapping[str, str]) -> dict[str, list[str]]:
    parts = (part.split() for part in headers["content-security-policy"].split(";"))
    return {name: values for name, *values in parts}


def test_page_may_load_its_own_files_and_nothing_else(client: TestClient) -> None:
    answer = client.get("/")
    found = policy(answer.headers)
    assert found["default-src"] == ["'none'"]
    assert {name: values for name, values in found.items() if "'self'" in values} == {
        name: ["'self'"] for name in ("script-src", "style-src", "img-src", "connect-src")
    }
    assert found["frame-ancestors"] == found["base-uri"] == found["form-action"] == ["'none'"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in answer.headers


def test_page_has_no_code_or_style_within_and_names_no_other_host() -> None:
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|<script(?![^>]*\ssrc=)|\s(?:style|on[a-z]+)=", page)
    for name in NAMES:
        urls = re.findall(r"\bhttps?://[\w.:-]+", (FOLDER / name).read_text())
        assert set(urls) <= {"http://www.w3.org"}, name  # the namespace of SVG, which nobody loads


def test_every_file_that_a_file_names_is_there_and_none_is_left_over() -> None:
    named = {"index.html"}
    for name in NAMES:
        text = (FOLDER / name).read_text()
        named |= set(re.findall(r'(?:from|import) "\./([\w.-]+)"', text))
        named |= set(re.findall(r'(?:src|href)="/dashboard/([\w.-]+)"', text))
    assert named == set(NAMES)


def test_modules_are_all_fetched_at_once() -> None:
    """The page names every module, so that the browser need not read one to learn of the next."""
    named = re.findall(r'<(?:link rel="modulepreload"|script)[^>]*"/dashboard/([\w-]+\.js)"', page_text())
    assert sorted(named) == [name for name in NAMES if name.endswith(".js")]


def page_text() -> str:
    return (FOLDER / "index.html").read_text()


def test_browser_keeps_what_has_not_changed(client: TestClient) -> None:
    first = client.get("/")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = client.get("/", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert policy(again.headers) == policy(first.headers)
    for other in ('"other"', tag.strip('"'), ""):
        assert client.get("/", headers={"if-none-match": other}).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "index.htm",
        "../routes/dashboard.py",
        "..%2froutes%2fdashboard.py",
        "%2e%2e/main.py",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "main.js%00",
        "main.js/",
        "",
    ],
)
def test_nothing_else_is_served(client: TestClient, name: str) -> None:
    answer = client.get(f"/dashboard/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_page_is_read_only(client: TestClient) -> None:
    assert client.post("/").status_code == client.post("/dashboard/main.js").status_code == 405


def test_with_a_key_the_page_loads_and_its_data_does_not(keyed: TestClient) -> None:
    for name in NAMES:
        assert keyed.get(path_of(name)).status_code == 200
    for data in ("/v1/elastic", "/v1/elastic/sequence", "/v1/elastic/events", "/v1/elastic/trace", "/metrics"):
        assert keyed.get(data).status_code == 401
        assert keyed.get(f"/dashboard/..{data}").status_code in (401, 404)
    assert keyed.get("/v1/elastic", headers={"authorization": f"Bearer {KEY}"}).status_code == 200


def test_foreign_names_are_refused(client: TestClient) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403


def test_files_are_read_once() -> None:
    assert page_files() is page_files()
    assert sorted(page_files()) == NAMES


def test_package_holds_every_file() -> None:
    data: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "flexquant.server"
    ]
    assert all(any(fnmatch(f"dashboard/{name}", pattern) for pattern in data) for name in NAMES)
