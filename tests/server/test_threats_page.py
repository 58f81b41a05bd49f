"""What docs/concepts/threats.md names is there."""

import re
from pathlib import Path

from flexquant.server.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [(ROOT / "docs" / "concepts" / name).read_text() for name in ("threats.md", "stopping.md")]


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
