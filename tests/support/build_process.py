"""Builds in processes of their own, which can be killed."""

import multiprocessing
import signal
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from flexquant.ensemble_builder.cli import main


def build(arguments: Sequence[str], log: Path) -> None:
    """Run a build in this process and end it; what the build says goes to a file."""
    with log.open("a") as sys.stderr:
        sys.exit(main(arguments))


class Builder:
    """Starts builds, each as a process that has torch imported already.

    Args:
        arguments: Of the command, without --out.
        log: File for what the builds say.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["flexquant.ensemble_builder.build_command"])
        self._arguments = arguments
        self._log = log

    def finish(self, out: Path, *further: str) -> bytes:
        """Build to the end, with further arguments, and return the manifest."""
        process = self._start(out, further)
        process.join()
        assert process.exitcode == 0, self._log.read_text()
        return (out / "ensemble.json").read_bytes()

    def kill_after(self, seconds: float, out: Path, *further: str) -> bool:
        """Start a build and kill it; False if it was done before."""
        process = self._start(out, further)
        process.join(seconds)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), self._log.read_text()
        return process.exitcode != 0

    def _start(self, out: Path, further: Sequence[str]) -> ForkServerProcess:
        arguments = [*self._arguments, *further, "--out", str(out)]
        process = self._context.Process(target=build, args=(arguments, self._log))
        process.start()
        return process
