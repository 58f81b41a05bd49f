"""Every link between pages, and to files of this repository, leads somewhere."""

from pathlib import Path

import pytest

from support.pages import ROOT, Page, pages, read

PAGES = pages()
INDEX = ROOT / "docs" / "README.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_and_anchor_resolves(page: Page) -> None:
    for link in page.links:
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        if anchor:
            assert anchor in read(target).anchors, f"{link}; there are {sorted(read(target).anchors)}"


def test_the_index_leads_to_every_page() -> None:
    linked = {(INDEX.parent / link.partition("#")[0]).resolve() for link in read(INDEX).links if "://" not in link}
    assert {page.path for page in PAGES if page.path.is_relative_to(INDEX.parent)} - {INDEX} <= linked


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("# One `two` + [three](x.md)!\n\n```sh\n# no heading\n```\n\n## Same\n\n## Same\n")
    assert read(path).anchors == {"one-two--three", "same", "same-1"}
    assert read(path).links == ["x.md"]
