"""Someone who does what a page says: its blocks in their order, in a folder of its own.

- Of `console` blocks what stands behind `$ ` is run by bash, each command by itself; of `sh` and `python` blocks all.
- `yaml` and `toml` blocks that begin with a comment that names a file are written into it.
- `flexquant-serve` and `make serve` start a daemon on a free port, which runs until the next one or the page's end;
  where a page says 127.0.0.1:8000, that one is meant.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from support.daemon import RunningDaemon, clean_environment, daemon_of
from support.pages import ROOT, Block, Page

LIMIT_S: Final = 240.0
"""Most seconds that a command may take, on whatever machine this runs."""
_ADDRESS: Final = "127.0.0.1:8000"
_SERVE: Final = re.compile(r"^(?:\S*/)?(?:flexquant-serve|flexquant serve)\b")
_FILE: Final = re.compile(r"^# (\S+\.(?:toml|yaml))\n")


class Reader:
    """Runs blocks; a context ends its daemon.

    Args:
        folder: Where commands run. It gets what pages name: folders of the repository, and `.venv`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._daemon: RunningDaemon | None = None
        (folder / "home").mkdir()
        for name in ("server", "tests"):
            (folder / name).symlink_to(ROOT / name)
        for name in ("docker", "services"):  # which pages write into
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("models", "api_key.txt", ".env"))
        (folder / ".venv").symlink_to(sys.prefix)

    def do(self, block: Block) -> None:
        """Run a block.

        Raises:
            AssertionError: A command failed, or a daemon did not start.
        """
        match block.language:
            case "console" | "sh":
                for command in block.commands:
                    self._run_or_serve(command)
            case "python":
                self._run(sys.executable, "-c", self._here(block.text))
            case "yaml" | "toml" if named := _FILE.match(block.text):
                (self._folder / named[1]).write_text(block.text)
            case _:
                pass

    def stop(self) -> None:
        """End the daemon, if one runs, as Ctrl-C does."""
        if self._daemon is not None:
            assert self._daemon.stop() == 0, self._daemon.log()
            self._daemon = None

    def _run_or_serve(self, command: str) -> None:
        if re.match(r"make serve\b", command):
            command = _recipe(command)
        if _SERVE.match(command):
            self.stop()
            environment = self._environment() | {"FLEXQUANT_PORT": "0"}
            process_command = ["bash", "-c", f"exec {command}"]
            self._daemon = daemon_of(process_command, self._folder / "daemon.log", environment, cwd=self._folder)
        else:
            self._run("bash", "-euo", "pipefail", "-c", self._here(command))

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd=self._folder, env=self._environment(), capture_output=True, text=True, timeout=LIMIT_S
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"

    def _here(self, text: str) -> str:
        return text if self._daemon is None else text.replace(_ADDRESS, self._daemon.url.removeprefix("http://"))

    def _environment(self) -> dict[str, str]:
        found = clean_environment({"HOME": str(self._folder / "home"), "HF_HUB_OFFLINE": "1"})
        found["PATH"] = f"{self._folder / '.venv' / 'bin'}:{os.environ['PATH']}"
        if self._daemon is not None:
            found["FLEXQUANT_URL"] = self._daemon.url
        return found


@contextmanager
def reader(folder: Path) -> Iterator[Reader]:
    """A reader, until the block ends."""
    made = Reader(folder)
    try:
        yield made
    finally:
        made.stop()


def is_run(page: Page, block: Block) -> bool:
    """Whether a reader runs the block: a program, or a file, that no mark excludes."""
    return not (block.mark.startswith(("not run: ", "run by ")) or any(map(_says_other, page.comments)))


def _says_other(comment: str) -> bool:
    return comment.startswith("blocks run by ")


def _recipe(command: str) -> str:
    """What `make serve` does last, once it has made its environment."""
    told = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *shlex.split(command)[1:]],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return next(line for line in told.stdout.splitlines() if "flexquant-serve" in line)
