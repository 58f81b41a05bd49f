"""A process that measures on request, so that the thread pools of two libraries never meet in one process."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

ROOT: Final = Path(__file__).parent.parent
"""The repository: where `python -m bench...` works."""


class WorkerError(Exception):
    """A worker could not do what it was asked for, or has ended."""


class Worker:
    """Runs `python -m MODULE` and asks it, one question after the other. A context manager that ends it.

    Args:
        python: Interpreter.
        module: Such as "bench.our_worker".
        environment: Variables to add.
    """

    def __init__(self, python: str, module: str, environment: Mapping[str, str] | None = None) -> None:
        self._name = module
        self._process = subprocess.Popen(
            [python, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | dict(environment or {}),
            text=True,
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        """Let it run one handler and wait for the answer.

        Raises:
            WorkerError: The handler failed, or the process has ended.
        """
        try:
            self._stdin.write(json.dumps({"do": do} | arguments) + "\n")
            self._stdin.flush()
            line = self._stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self._name} ended with exit code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self._name}, {do}: {answer['error']}")
        return answer["ok"]

    def close(self) -> None:
        """End it; closing twice is allowed."""
        self._stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
