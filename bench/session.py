"""What all suites of a run share: sizes, model files, and the workers of both sides."""

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure
from bench.peer_model import TYPES
from bench.peer_server import PeerServerError, peer_server
from bench.row import Row
from bench.scale import BITS, Scale
from bench.worker import Worker, WorkerError

_KV_PAGES: Final = 1024
"""A promise of 65,536 tokens; pages are mapped when tokens come."""


@dataclasses.dataclass(frozen=True)
class Session:
    """One run.

    Args:
        scale: Sizes.
        threads: Of both sides.
        models: Folder that keeps the generated models.
        peer_python: Interpreter that has llama-cpp-python and gguf; None runs without a peer.
    """

    scale: Scale
    threads: int
    models: Path
    peer_python: str | None
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    """What came to light while suites ran and belongs to the conditions, by name."""

    # --- ours

    @cached_property
    def our_about(self) -> dict[str, str]:
        """Versions, and which kernels compute."""
        with _our_worker() as worker:
            about: dict[str, str] = worker.ask("about")
            return about

    @cached_property
    def ensemble(self) -> Path:
        """Our model, written if it is not there."""
        return self.written("stores")

    def written(self, kind: str) -> Path:
        name = "ours" if kind == "stores" else kind.replace(" ", "-")
        folder = self.models / f"{name}-{self.scale.shape.name}"
        with _our_worker() as worker:
            worker.ask("write", folder=str(folder), shape=dataclasses.asdict(self.scale.shape), kind=kind)
        return folder

    def uniform_position(self, bits: int) -> int:
        """The position at which all modules have `bits`: the sequence takes all to 4 bits, then to 3, then to 2."""
        return BITS.index(bits) * self.scale.shape.linears

    @contextmanager
    def ours(self, kind: str = "stores") -> Iterator[tuple[Worker, list[int]]]:
        """A worker with our model of that kind (`our_model.Kind`) at position 0, and its footprints in bytes.

        It is written if it is not there.
        """
        folder = self.written(kind)
        with _our_worker(OMP_NUM_THREADS=str(self.threads)) as worker:
            opened = worker.ask("open", folder=str(folder), threads=self.threads, kv_pages=_KV_PAGES)
            yield worker, opened["footprints"]

    def daemon_command(self, position: int) -> list[str]:
        """The command line of our daemon, held at a position; the port is to be added."""
        return [
            *(sys.executable, "-m", "flexquant.server.main", "--model", str(self.ensemble)),
            *("--pin", str(position), "--threads", str(self.threads)),
        ]

    # --- the peer

    @cached_property
    def peer_about(self) -> dict[str, Any] | str:
        """Versions and build of llama.cpp, or why there is none."""
        if self.peer_python is None:
            return "llama.cpp was left out"
        try:
            with Worker(self.peer_python, "bench.peer_worker") as worker:
                about: dict[str, Any] = worker.ask("about")
                return about
        except (WorkerError, OSError):
            return "llama-cpp-python and gguf are not installed (dependency group `bench`)"

    @property
    def peer_missing(self) -> str | None:
        """Why there is no llama.cpp; None if there is."""
        return self.peer_about if isinstance(self.peer_about, str) else None

    def peer_file(self, bits: int) -> Path:
        """llama.cpp's model at 4 or 8 bits, written if it is not there."""
        path = self.models / f"peer-{self.scale.shape.name}-{TYPES[bits]}.gguf"
        assert self.peer_python is not None
        with Worker(self.peer_python, "bench.peer_worker") as worker:
            worker.ask("write", path=str(path), shape=dataclasses.asdict(self.scale.shape), bits=bits)
        return path

    @cached_property
    def peer_server(self) -> Path | str:
        """llama.cpp's own server, built if it is not there, or why there is none."""
        about = self.peer_about
        if isinstance(about, str) or self.peer_python is None:
            return str(about)
        try:
            return peer_server(self.models, self.peer_python, about["version"])
        except PeerServerError as error:
            return str(error)

    @contextmanager
    def peer(self, bits: int, *, sequences: int = 1, context: int = 1024) -> Iterator["Peer | None"]:
        """A worker with llama.cpp's model, None without llama.cpp.

        Args:
            bits: 4 or 8.
            sequences: Most of them at a time.
            context: Most tokens of each.
        """
        if self.peer_missing is not None or self.peer_python is None:
            yield None
            return
        path = self.peer_file(bits)
        with Worker(self.peer_python, "bench.peer_worker") as worker:
            opened = worker.ask("open", path=str(path), threads=self.threads, sequences=sequences, context=context)
            self.notes[f"llama.cpp {TYPES[bits]}"] = opened["told"]
            yield Peer(worker, opened["weight_bytes"])

    def compare(
        self,
        name: str,
        unit: str,
        ours: Sequence[float],
        peer: Sequence[float],
        bits: int,
        *,
        less_is_better: bool = False,
    ) -> Row:
        """A row against llama.cpp at `bits`; without samples of it the row says why."""
        against = f"llama.cpp {TYPES[bits]}" if peer else self.peer_missing or "llama.cpp was not measured"
        return Row(
            name, unit, Figure.of(ours), Figure.of(peer) if peer else None, against, less_is_better=less_is_better
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """llama.cpp with a model."""

    worker: Worker
    weight_bytes: int
    """Bytes of weights that a decode step reads: all but the embedding table."""


def _our_worker(**environment: str) -> Worker:
    """A worker with our engine, whose OpenMP threads sleep while they wait, as those of the daemon do."""
    waiting = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}  # read when torch is imported
    return Worker(sys.executable, "bench.our_worker", waiting | environment)


def tokens_per_second(worker: Worker, scale: Scale, *, sequences: int = 1) -> float:
    """Decode on either side: tokens of all sequences over the time that they took, behind a short prompt."""
    tokens = scale.warm_tokens + scale.decode_tokens
    worker.ask("start", sequences=sequences, tokens=scale.prompt_tokens, room=tokens)
    worker.ask("decode", tokens=scale.warm_tokens)
    return sequences * decode_rate(worker, scale.decode_tokens)


def decode_rate(worker: Worker, tokens: int) -> float:
    """Go on with the sequences that were started: passes per second."""
    times: list[float] = worker.ask("decode", tokens=tokens)
    return tokens / sum(times)
