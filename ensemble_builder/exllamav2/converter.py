"""Running exllamav2's converter: as a process that ends with us, with its output in a file and its progress in ours."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Final

from flexquant.engine.parent_process import ending_with_us
from flexquant.ensemble_builder.atomic_file import cannot_write
from flexquant.ensemble_builder.exllamav2.conversion_failure import conversion_failure
from flexquant.ensemble_builder.exllamav2.conversion_job import ConversionJob
from flexquant.ensemble_builder.progress import Progress, Stage

CONVERTER: Final = (
    sys.executable,
    "-m",
    "flexquant.ensemble_builder.exllamav2.run_converter",
    "exllamav2.conversion.convert_exl2",
)
"""Command that starts it."""
KEPT_LINES: Final = 400
"""Of the output, for finding out what went wrong."""

_STATUS: Final = re.compile(r'\[STATUS\]\{"stage": "([^"]*)", "completion": ([\d.]+)\}\[/STATUS\]')
"""A line of `conversion/bot_status.py`."""


@dataclass(frozen=True, slots=True)
class Converter:
    """The converter.

    Args:
        command: Starts it; the arguments follow.
        log: File that its output is added to.
        parts: Parts of a model for the converter: embedding, attention and MLP of every layer, last norm, head.
        progress: Is told how far it is.
    """

    command: Sequence[str]
    log: Path
    parts: int
    progress: Progress

    def run(self, job: ConversionJob, doing: str, counted: str) -> None:
        """Do a job, or go on with it; one that is done takes no time.

        Must be called from the main thread: the system ends the converter with the thread that started it.

        Args:
            job: The job.
            doing: What to show meanwhile.
            counted: The converter's own name of the stage that takes the time.

        Raises:
            FlexQuantError: The job did not get to its end; or a file cannot be written.
        """
        if job.finished:
            return
        job.remove_unusable()
        with self.progress.stage(doing, self.parts) as stage:
            lines, exit_code = self._converse([*self.command, *job.arguments], stage, counted)
            if not job.finished:
                raise conversion_failure(doing, lines, exit_code, self.log)

    def _converse(self, command: Sequence[str], stage: Stage, counted: str) -> tuple[list[str], int]:
        """Run a command to its end; return its last lines and its exit code."""
        lines: deque[str] = deque(maxlen=KEPT_LINES)
        known = False
        with _running(command) as (process, output):
            for line in chain([f"$ {shlex.join(command)}\n"], output):
                self._keep(line)
                done = _done(line, counted, stage.total)
                if done is None:
                    lines.append(line)
                elif known:
                    stage.advance(max(0, done - stage.done))
                else:
                    stage.skip(done)  # where the job had got to before
                    known = True
            return list(lines)[1:], process.wait()

    def _keep(self, line: str) -> None:
        """Add a line to the log. It has few, and seconds between them."""
        try:
            with self.log.open("a", encoding="utf-8") as log:
                log.write(line)
        except OSError as error:
            raise cannot_write(self.log, error) from error


@contextmanager
def _running(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Run a command while the block runs; yields the process and its output.

    It has a session of its own, so that Ctrl-C reaches us alone: the converter would ask what to do on its stdin.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env=ending_with_us(os.environ),
    )
    assert process.stdout is not None, "it was asked for"
    try:
        yield process, process.stdout
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()


def _done(line: str, counted: str, total: int) -> int | None:
    """Return how many of `total` parts a line of status says are done; None if it is about another stage, or none."""
    found = _STATUS.search(line)
    return round(float(found[2]) * total) if found and found[1] == counted else None
