"""Who measures candidates: this process, or several local ones. The figures and their order are the same."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Final, Protocol

import torch

from flexquant.engine.errors import FlexQuantError
from flexquant.engine.manifest import Quality
from flexquant.ensemble_builder.eqm import EqmEvaluation
from flexquant.ensemble_builder.evaluation_setup import EvaluationSetup
from flexquant.ensemble_builder.sequence import Assignment


class Executor(Protocol):
    """Measures assignments of modules."""

    @property
    def workers(self) -> int:
        """Candidates that are measured at the same time."""
        ...

    def __call__(self, stem: Assignment, candidates: Sequence[Assignment], /) -> Iterator[Quality]:
        """Yield the quality of each candidate, in their order, as soon as it is known.

        Args:
            stem: An assignment that the candidates differ little from; its hidden states are reused.
            candidates: What to measure.

        Raises:
            FlexQuantError: Measuring failed, or a process that measured has ended.
        """
        ...


def executor(setup: EvaluationSetup, workers: int) -> AbstractContextManager[Executor]:
    """Return what measures in `workers` processes, or in this one for a single worker."""
    return nullcontext(InProcess(setup)) if workers == 1 else local_processes(setup, workers)


class InProcess:
    """Measures one candidate after the other in this process; the stores are opened when the first is asked for."""

    workers: Final = 1

    def __init__(self, setup: EvaluationSetup) -> None:
        self._setup = setup
        self._evaluation: EqmEvaluation | None = None

    def __call__(self, stem: Assignment, candidates: Sequence[Assignment]) -> Iterator[Quality]:
        """See `Executor`."""
        if self._evaluation is None:
            self._evaluation = self._setup.open()
        for candidate in candidates:
            yield from self._evaluation(stem, [candidate])


@contextmanager
def local_processes(setup: EvaluationSetup, workers: int) -> Iterator[Executor]:
    """Start processes that measure; they share the machine's cores and the memory that one would take."""
    context = multiprocessing.get_context("forkserver")  # they share the pages of what is imported
    context.set_forkserver_preload([__name__])
    threads = max(1, torch.get_num_threads() // workers)
    pool = []
    try:
        for _ in range(workers):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, setup.shared(workers), threads), daemon=True)
            process.start()
            there.close()
            pool.append((process, here))
        yield LocalProcesses(pool)
    finally:
        for process, connection in pool:
            connection.close()
            process.kill()  # it holds nothing that would be lost
            process.join()


class LocalProcesses:
    """Hands candidates to whichever process is free.

    Args:
        pool: Processes that run `_serve`, each with the pipe to it.
    """

    def __init__(self, pool: Sequence[tuple[ForkServerProcess, Connection]]) -> None:
        self._pool = {connection: process for process, connection in pool}
        self.processes = tuple(self._pool.values())
        self.workers = len(pool)

    def __call__(self, stem: Assignment, candidates: Sequence[Assignment]) -> Iterator[Quality]:
        """See `Executor`."""
        waiting = deque(enumerate(candidates))
        busy: dict[Connection, int] = {}
        done: dict[int, Quality] = {}
        for number in range(len(candidates)):
            while number not in done:
                for connection in self._pool.keys() - busy.keys() if waiting else ():
                    if waiting:
                        busy[connection], candidate = waiting.popleft()
                        self._send(connection, (stem, candidate))
                ready = wait(list(busy))
                for connection in [connection for connection in busy if connection in ready]:
                    done[busy.pop(connection)] = self._receive(connection)
            yield done.pop(number)

    def _send(self, connection: Connection, task: tuple[Assignment, Assignment]) -> None:
        try:
            connection.send(task)
        except OSError as error:
            raise self._ended(connection) from error

    def _receive(self, connection: Connection) -> Quality:
        try:
            found = connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended(connection) from error
        if isinstance(found, Quality):
            return found
        kind, message, hint = found
        raise kind(message, hint=hint)

    def _ended(self, connection: Connection) -> FlexQuantError:
        process = self._pool[connection]
        process.join(1)
        how = "" if process.exitcode is None else f" ({_how_it_ended(process.exitcode)})"
        return FlexQuantError(
            f"a process that measured candidates has ended{how}",
            hint="What was measured is kept: the same command goes on from there. If memory was short, give fewer "
            "--workers.",
        )


def _how_it_ended(exit_code: int) -> str:
    return f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"


def _serve(connection: Connection, setup: EvaluationSetup, threads: int) -> None:
    """Measure what comes through the pipe until its other end is closed, by whatever end of the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    torch.set_num_threads(threads)
    try:
        evaluation = None
        while True:
            stem, candidate = connection.recv()
            try:
                evaluation = evaluation or setup.open()
                [found] = evaluation(stem, [candidate])
            except FlexQuantError as error:
                connection.send((type(error), error.message, error.hint))
            else:
                connection.send(found)
    except (EOFError, OSError):
        return
