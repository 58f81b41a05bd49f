"""Servers that live on a simulated machine, each with its own way to make room: what the pressure suite compares."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import httpx

from bench.machine.helpers import Hog, RunningDaemon
from bench.machine.small_machine import MIB, Machine
from bench.machine.watch import ProcessMemory
from bench.server_process import Server, ServerError, server

_START_SECONDS: Final = 180.0
_POLL_SECONDS: Final = 0.01
BEST, SMALL = 8, 4
"""Bits of llama.cpp's two models."""


class Side(Protocol):
    """A server under pressure."""

    @property
    def name(self) -> str:
        """For the rows."""
        ...

    def port(self) -> int:
        """Where it answers now; raises ConnectionError while it does not."""
        ...

    def pids(self) -> Sequence[int]:
        """Its processes."""
        ...

    def best(self) -> bool:
        """Whether it answers with its best model."""
        ...


@dataclass(frozen=True, slots=True)
class Daemon:
    """FlexQuant."""

    daemon: RunningDaemon
    name: str = "FlexQuant"

    def port(self) -> int:
        """It never changes."""
        return httpx.URL(self.daemon.url).port or 0

    def pids(self) -> Sequence[int]:
        """One."""
        return [self.daemon.process.pid]

    def best(self) -> bool:
        """Position 0."""
        return bool(self.daemon.get("/v1/elastic").json()["position"] == 0)


class WholeSwap:
    """llama.cpp's server, ended and started with the smaller file when memory gets short, and back when it is free.

    That is what users do by hand or by a script. This one looks at the memory a hundred times a second, counts file
    pages as taken, kills the server at once (asked to end, it waits for its clients), and comes back as soon as the
    larger file fits.

    Args:
        name: For the rows.
        command: Of the server, for a number of bits.
        machine: On which it lives.
        hog: The rest of the machine.
        larger: Bytes that the larger file has beyond the smaller one.
    """

    def __init__(self, name: str, command: Callable[[int], list[str]], machine: Machine, hog: Hog, larger: int) -> None:
        self.name = name
        self._command = command
        self._machine = machine
        self._hog = ProcessMemory(hog.pid)
        self._larger = larger
        self._server: Server | None = None
        self._ready = False
        self._bits = BEST
        self._enough = threading.Event()
        self.failure: Exception | None = None

    @contextmanager
    def running(self) -> Iterator["WholeSwap"]:
        """From the first answer of the larger model until the context ends."""
        thread = threading.Thread(target=self._run, name="swap")
        thread.start()
        try:
            while not self._ready and thread.is_alive():
                time.sleep(_POLL_SECONDS)
            yield self
        finally:
            self._enough.set()
            thread.join()
        if self.failure is not None:
            raise self.failure

    def port(self) -> int:
        """Of the server that runs now."""
        if self._server is None or not self._ready:
            raise ConnectionRefusedError("no server is ready")
        return self._server.port

    def pids(self) -> Sequence[int]:
        """One, or none in between."""
        return [] if self._server is None else [self._server.process.pid]

    def best(self) -> bool:
        """The larger model answers."""
        return self._ready and self._bits == BEST

    def _run(self) -> None:
        try:
            while not self._enough.is_set():
                with server(self._command(self._bits)) as self._server:
                    _wait_for_health(self._server)
                    self._ready = True
                    while not self._enough.is_set() and not self._should_swap(self._server.process.pid):
                        time.sleep(_POLL_SECONDS)
                    self._ready = False
                    self._server.process.kill()
                self._server = None
                self._bits = SMALL if self._bits == BEST else BEST
        except (ServerError, OSError) as error:
            self.failure = error

    def _should_swap(self, pid: int) -> bool:
        held = sum(ProcessMemory(pid).read()) + self._hog.read()[0]
        free = self._machine.memory - held
        return free < self._machine.low if self._bits == BEST else free - self._larger >= self._machine.high


class Ramp:
    """RAMP before llama.cpp's server, with two tiers; it sees the simulated machine.

    Args:
        started: RAMP's process.
    """

    name = "RAMP before llama.cpp's server, tiers Q8_0 and Q4_0"

    def __init__(self, started: Server) -> None:
        self._server = started

    def port(self) -> int:
        """RAMP's own: it lets requests wait while it swaps."""
        return self._server.port

    def pids(self) -> Sequence[int]:
        """RAMP and the server that it runs."""
        pid = self._server.process.pid
        try:
            children = Path("/proc", str(pid), "task", str(pid), "children").read_text().split()
        except FileNotFoundError:  # it has ended
            return []
        return [pid, *map(int, children)]

    def best(self) -> bool:
        """The first tier answers."""
        status = self._server.get("/ramp/status")
        return bool(status["ready"] and status["tier_index"] == 0)


@contextmanager
def ramp(
    python: str, command: Callable[[int], list[str]], machine: Machine, hog: Hog, files: dict[int, Path], folder: Path
) -> Iterator[Ramp]:
    """Start RAMP with its own defaults, but for the reserves: those are the machine's.

    Args:
        python: Interpreter that has `ramp-llm`.
        command: Of llama.cpp's server, for a number of bits.
        machine: On which it lives.
        hog: The rest of the machine.
        files: Models by bits.
        folder: For its settings.
    """
    config = folder / "ramp.yaml"
    config.write_text(json.dumps(_ramp_config(command, machine, files)))  # JSON is YAML
    program = [python, "-m", "bench.ramp_on_machine", str(machine.memory), str(hog.pid)]
    with server([*program, "run", "--config", str(config)]) as started:
        _wait_for_health(started)
        yield Ramp(started)


def _ramp_config(command: Callable[[int], list[str]], machine: Machine, files: dict[int, Path]) -> dict[str, Any]:
    tiers = []
    for bits, path in files.items():
        program, *flags = command(bits)
        context = flags[flags.index("--ctx-size") + 1]
        for name in ("--model", "--ctx-size", "--host"):  # RAMP gives these itself
            place = flags.index(name)
            del flags[place : place + 2]
        size = path.stat().st_size / MIB
        tiers.append({"name": path.stem, "model": str(path), "est_ram_mb": size, "ctx": int(context), "args": flags})
    return {
        "tiers": tiers,
        "backend": "llama",
        "llama_server_bin": program,
        "safety_margin_mb": machine.low / MIB,
        "disk_min_free_mb": 1.0,
        "hysteresis": {
            "critical_free_mb": machine.critical / MIB,
            "upgrade_extra_mb": (machine.high - machine.low) / MIB,
        },
    }


def _wait_for_health(started: Server) -> None:
    with ExitStack() as stack:
        http = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{started.port}", trust_env=False))
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if started.process.poll() is not None:
                raise ServerError(f"the server ended with exit code {started.process.returncode}")
            with suppress(httpx.HTTPError):
                if http.get("/health").status_code == httpx.codes.OK:
                    return
            time.sleep(_POLL_SECONDS)
    raise ServerError(f"the server was not ready within {_START_SECONDS:g} s")
