"""A real Chromium looks at the dashboard of the real daemon. Playwright is in `.venv-e2e` alone: `make test-e2e`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.asked_for import unread_unless
from support.daemon import RunningDaemon, running_daemon

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from support.browser import Watched


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip what was not asked for by its mark. Once it was, a missing browser is an error."""
    return unread_unless("clients", "Chromium and Playwright", module_path, parent)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    from support.browser import chromium

    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with running_daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_wishes_left(daemon: RunningDaemon) -> Iterator[None]:
    """Each test finds the model at position 0, in the hands of the user."""
    yield
    last = daemon.get("/v1/elastic").json()["max_position"]
    for wish in ({"worst_position": last}, {"position": 0}):
        assert daemon.post("/v1/elastic/target", wish).status_code == 200


@pytest.fixture
def watch(browser: "Browser") -> "Iterator[Callable[..., Watched]]":
    """Makes pages, and closes them in the end."""
    from support.browser import Watched

    made: list[Watched] = []

    def make(**options: Any) -> Watched:
        made.append(Watched(browser, **options))
        return made[-1]

    yield make
    for watched in made:
        watched.close()


@pytest.fixture
def page(watch: "Callable[..., Watched]", daemon: RunningDaemon) -> "Page":
    """The dashboard of `daemon`, connected."""
    return watch().open(daemon.url)
