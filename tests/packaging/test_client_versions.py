"""The clients that are tested: exact versions, which the guide names."""

import json
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "clients.md").read_text()
NODE = ROOT / "tests" / "e2e" / "node"
GROUP: list[str | dict[str, str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["e2e"]
CLIENTS = [requirement for requirement in GROUP if isinstance(requirement, str)]


@pytest.mark.parametrize("requirement", CLIENTS)
def test_the_guide_names_the_versions_for_python(requirement: str) -> None:
    name, version = requirement.replace("[api]", "").split("==")
    assert f"| `{name}` | {version} |" in GUIDE


def test_the_guide_names_the_version_for_node() -> None:
    version = json.loads((NODE / "package.json").read_text())["dependencies"]["openai"]
    assert f"| `openai` for Node | {version}, " in GUIDE


def test_what_npm_installs_is_locked_by_its_hash_and_no_address() -> None:
    package = json.loads((NODE / "package.json").read_text())
    lock = json.loads((NODE / "package-lock.json").read_text())
    assert lock["packages"].pop("")["dependencies"] == package["dependencies"]
    assert {path.removeprefix("node_modules/") for path in lock["packages"]} >= package["dependencies"].keys()
    for locked in lock["packages"].values():
        assert "integrity" in locked
        assert "resolved" not in locked
