"""What the pages tell their readers to type works, page by page."""

from pathlib import Path

import pytest

from support.pages import PROGRAMS, Page, pages
from support.reader import is_run, reader
from support.reader_models import write_models

pytestmark = pytest.mark.e2e

PAGES = [page for page in pages() if any(is_run(page, block) and block.language in PROGRAMS for block in page.blocks)]


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    write_models(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Page, kept: Path, tmp_path: Path) -> None:
    for name in ("models", "texts"):
        (tmp_path / name).symlink_to(kept / name)
    with reader(tmp_path) as someone:
        for block in page.blocks:
            if is_run(page, block):
                someone.do(block)


def test_pages_are_found() -> None:
    assert "README.md" in {page.name for page in PAGES}
