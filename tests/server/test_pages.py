"""What the pages about threats, stopping and errors name is there, and nothing is left out."""

import re
from pathlib import Path

from flexquant.server.api_error import CODES
from flexquant.server.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [
    (ROOT / "docs" / name).read_text()
    for name in ("concepts/threats.md", "concepts/stopping.md", "reference/errors.md")
]


def test_every_test_that_the_page_names_exists() -> None:
    rows = [line for line in PAGES[0].splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`([\w/.]+)`", row.rsplit("|", 2)[1])
        assert named, row
        for path in named:
            assert (ROOT / "tests" / path).exists(), path


def test_every_setting_that_the_pages_name_exists() -> None:
    flags = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    named = set(re.findall(r"`(--[a-z-]+)`", " ".join(PAGES)))
    assert len(named) > 10
    assert named <= flags | {"--help"}


def test_every_code_of_an_error_is_on_the_page_and_no_other() -> None:
    rows = re.findall(r"^\| [\d, ]+ \| (.*?) \|", PAGES[2], re.MULTILINE)
    named = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    sources = [path.read_text() for path in (ROOT / "server").rglob("*.py")]
    used = {code for text in sources for code in re.findall(r'code="(\w+)"', text)} | set(CODES.values())
    assert named == used
