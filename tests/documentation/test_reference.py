"""What the reference takes from the code is what the code says now."""

import re

from docs.generate.blocks import pages, renewed
from docs.generate.commands import commands
from flexquant.engine import errors
from flexquant.engine.manifest import Manifest
from flexquant.server.settings import Settings
from support.pages import ROOT

REFERENCE = ROOT / "docs" / "reference"


def test_no_generated_block_is_stale() -> None:
    found = pages()
    assert {path.name for path in found} >= {"cli.md", "settings.md", "manifest.md", "metrics.md"}
    for path in found:
        page = path.read_text()
        assert renewed(page) == page, f"{path.name} is stale: python -m docs.generate"


def test_a_stale_block_is_renewed_and_the_rest_stays() -> None:
    page = "before\n<!-- generated metrics -->\nold\n<!-- /generated metrics -->\nafter\n"
    made = renewed(page)
    assert "old" not in made
    assert made.startswith("before\n<!-- generated metrics -->\n| Metric |")
    assert made.endswith("|\n<!-- /generated metrics -->\nafter\n")


def test_every_setting_and_field_has_a_row() -> None:
    settings = (REFERENCE / "settings.md").read_text()
    assert re.findall(r"^\| `--([a-z-]+)`", settings, re.MULTILINE) == [
        name.replace("_", "-") for name in Settings.model_fields
    ]
    manifest = (REFERENCE / "manifest.md").read_text()
    for name in Manifest.model_fields:
        assert f"| `{name}` |" in manifest


def test_the_builder_lists_every_command_that_it_has() -> None:
    """The reference finds commands in the usage, and the builder by their names."""
    handled = set(re.findall(r'case \["([\w-]+)"', (ROOT / "ensemble_builder" / "cli.py").read_text()))
    listed = {command.words[1] for command in commands() if command.words[0] == "flexquant-build" and command.words[1:]}
    assert handled
    assert listed == handled


def test_every_exit_code_is_told() -> None:
    section = (REFERENCE / "errors.md").read_text().split("\n## Exit codes\n")[1]
    told = re.findall(r"^\| (\d+) \|", section, re.MULTILINE)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.FlexQuantError)}
    assert set(map(int, told)) == codes | {0, 130}
