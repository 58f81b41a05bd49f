"""The examples of docs/guides/clients.md, as they stand there, and a daemon as it is without settings."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import RunningDaemon, running_daemon

pytestmark = [pytest.mark.e2e, pytest.mark.clients]

ROOT = Path(__file__).parents[3]
SECTIONS = (ROOT / "docs" / "guides" / "clients.md").read_text().split("\n## ")[1:]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def open_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with running_daemon(tmp_path_factory.mktemp("open")) as running:
        yield running


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])
def test_examples(section: str, open_daemon: RunningDaemon, tmp_path: Path) -> None:
    """A section's blocks are run in their order; each that is a program prints something."""
    blocks = BLOCK.findall(section)
    assert blocks
    (tmp_path / "server").symlink_to(ROOT / "server")
    (tmp_path / "node_modules").symlink_to(ROOT / "tests" / "e2e" / "node" / "node_modules")
    (tmp_path / "text.txt").write_text((ROOT / "tests" / "assets" / "text" / "validation.txt").read_text()[:3000])
    for language, example in blocks:
        here = example.replace("http://127.0.0.1:8000", open_daemon.url)
        match language:
            case "python":
                run(tmp_path, sys.executable, "-W", "ignore", "-c", here)
            case "javascript":
                (tmp_path / "example.mjs").write_text(here)
                run(tmp_path, "node", "example.mjs")
            case "yaml":
                name = here.splitlines()[0].removeprefix("# ")
                (tmp_path / name).write_text(here)
            case "console":
                for command in re.findall(r"^\$ (.*)$", here, re.MULTILINE):
                    run(tmp_path, "bash", "-c", command)
            case _:
                raise AssertionError(f"nothing is known about {language}")


def run(folder: Path, *command: str) -> None:
    """Run a program that is expected to succeed and to print something."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LLM_USER_PATH": str(folder),
        "HF_HOME": str(folder / "hub"),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
