"""Several clients at once, over HTTP: the daemon at 4 bits beside llama.cpp's own server with as many slots.

The client reads every stream on a thread of its own and notes when its parts arrive. Requests are the same on both
sides: token ids in, temperature 0, answers of a fixed length, no prompt twice unless that is what is measured.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from bench.client import Client
from bench.figures import Figure, gaps, percentile
from bench.peer_model import TYPES
from bench.peer_server import peer_server_command, peer_server_version
from bench.releases import Release, releases
from bench.row import Row
from bench.server_process import Server, ServerError, server
from bench.session import Session
from bench.streams import Stream

_SLOTS: Final = 4
_BITS: Final = 4
_RUNNING: Final = 3
"""Streams beside the long prompt."""
_ENDING: Final = 8
"""Tokens behind a shared prefix."""
_QUIET_SECONDS: Final = 0.5
"""After connections were closed, until a server has noticed."""
_SHARE: Final = 0.99
_PEER: Final = f"llama.cpp's server, {TYPES[_BITS]}"
_CANCELS: Final = 3


def run(session: Session) -> list[Row]:
    """Throughput, shared prefixes, a long prompt beside running streams, and cancelled requests."""
    numbers = count()
    with _ours(session) as ours, _peer(session) as peer:
        sides = [Client(session.scale, ours, numbers), *([Client(session.scale, peer, numbers)] if peer else [])]
        rows = [*_throughput(session, sides), *_shared_prefix(session, sides), *_long_prompt(session, sides)]
    return [*rows, *_cancelled(session, numbers)]


# --- throughput


def _throughput(session: Session, sides: Sequence[Client]) -> list[Row]:
    single: list[list[float]] = [[] for _ in sides]
    together: list[list[float]] = [[] for _ in sides]
    for number in range(1 + session.scale.serve_rounds):
        for side, one, four in zip(sides, single, together, strict=True):
            measured = side.rate(1), side.rate(_SLOTS)
            if number:  # the first round warms up
                one.append(measured[0])
                four.append(measured[1])
    gains = [[b / a for a, b in zip(one, four, strict=True)] for one, four in zip(single, together, strict=True)]
    return [
        _row(session, f"serve, one stream, first to last of {session.scale.answer_tokens} tokens", "tokens/s", single),
        _row(session, "serve, four streams together, tokens of all while all four run", "tokens/s", together),
        _row(session, "serve, four streams together over one stream", "times", gains),
    ]


# --- shared prefix


def _shared_prefix(session: Session, sides: Sequence[Client]) -> list[Row]:
    scale = session.scale
    fresh: list[list[float]] = [[] for _ in sides]
    again: list[list[float]] = [[] for _ in sides]
    for _ in range(scale.serve_rounds):
        for side, first, second in zip(sides, fresh, again, strict=True):
            prefix = side.fresh(scale.shared_tokens)
            first.append(side.first_token([*prefix, *side.fresh(_ENDING)]))
            second.append(side.first_token([*prefix, *side.fresh(_ENDING)]))
    gains = [[a / b for a, b in zip(first, second, strict=True)] for first, second in zip(fresh, again, strict=True)]
    name = f"serve, first token behind a shared prefix of {scale.shared_tokens} tokens"
    return [
        _row(session, f"{name}: when the prefix is new", "s", fresh, less_is_better=True),
        _row(session, f"{name}: with another ending", "s", again, less_is_better=True),
        _row(session, f"{name}: times sooner with another ending", "times", gains),
    ]


# --- a long prompt beside running streams


def _long_prompt(session: Session, sides: Sequence[Client]) -> list[Row]:
    scale = session.scale
    calm: list[list[float]] = [[] for _ in sides]
    busy: list[list[float]] = [[] for _ in sides]
    first: list[list[float]] = [[] for _ in sides]
    for _ in range(scale.long_rounds):
        for number, side in enumerate(sides):
            with side.running(_RUNNING, scale.serve_context - scale.prompt_tokens) as running:
                for stream in running:
                    stream.wait_for_pieces(scale.answer_tokens)
                with side.stream(side.fresh(scale.long_tokens), 1) as long:
                    begin, end = long.sent, long.first
                for stream in running:  # a pause that began before the end is measured to its own end
                    stream.wait_for_pieces(len(stream.pieces) + 1)
            time.sleep(_QUIET_SECONDS)
            begun = max(stream.pieces[0] for stream in running)
            calm[number].append(_p99_ms(running, begun, begin))
            busy[number].append(_p99_ms(running, begin, end))
            first[number].append(end - begin)
    name = f"serve, p99 time between tokens of {_RUNNING} running streams"
    beside = f"while a {scale.long_tokens:,}-token prompt is prefilled"
    prefilled = _row(session, f"{name} {beside}", "ms", busy, less_is_better=True)
    steady = _row(session, f"{name}, nothing else running", "ms", calm, less_is_better=True)
    return [
        prefilled,
        steady,
        Row(
            f"{name} {beside}",
            "ms",
            prefilled.ours,
            steady.ours,
            "FlexQuant, the same streams before it",
            less_is_better=True,
        ),
        _row(
            session,
            f"serve, first token of a {scale.long_tokens:,}-token prompt beside {_RUNNING} running streams",
            "s",
            first,
            less_is_better=True,
        ),
    ]


def _p99_ms(running: Sequence[Stream], begin: float, end: float) -> float:
    return 1000 * percentile([gap for stream in running for gap in gaps(stream.pieces, begin, end)], _SHARE)


# --- cancelled requests


@dataclass(frozen=True, slots=True)
class _Cancel:
    """A connection that was closed, and what followed."""

    closed: float
    release: Release

    @property
    def milliseconds(self) -> float:
        return 1000 * (self.release.time - self.closed)

    @property
    def safe_points(self) -> int:
        return self.release.passed(self.closed)

    @property
    def longest_way(self) -> float:
        """Milliseconds between two safe points at most, before the closing."""
        return 1000 * self.release.longest_way(self.closed)


def _cancelled(session: Session, numbers: Iterator[int]) -> list[Row]:
    """Close connections of a daemon that writes down when it gives memory back."""
    long = session.scale.long_tokens
    decoding: list[_Cancel] = []
    prefilled: list[_Cancel] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "releases")
        watched = ("-m", "bench.watched_daemon", str(path))
        with _ours(session, program=watched) as started, releases(path) as given_back:
            client = Client(session.scale, started, numbers)
            half = (
                client.first_token(client.fresh(session.scale.shared_tokens)) * long / session.scale.shared_tokens / 2
            )
            for _ in range(2):  # that request, and the one that warmed up
                given_back.next()
            for _ in range(1 + _CANCELS):
                with client.running(1, session.scale.long_tokens) as (stream,):
                    stream.wait_for_pieces(session.scale.answer_tokens)
                    decoding.append(_Cancel(stream.close(), given_back.next()))
                with client.stream(client.fresh(long), session.scale.answer_tokens) as stream:
                    stream.wait_for_turn()
                    time.sleep(half)
                    prefilled.append(_Cancel(stream.close(), given_back.next()))
    tokens = Figure.of([cancel.release.tokens for cancel in prefilled[1:]])
    session.notes["cancelled in the prefill"] = (
        f"after {tokens.least:,.0f} to {tokens.most:,.0f} of {long:,} tokens; full pages stay mapped as a prefix for "
        "later prompts, and count as free"
    )
    return [
        *_cancel_rows("decoding", decoding[1:], "one is the least"),  # the first of each warms up
        *_cancel_rows(
            f"in the middle of the prefill of {long:,} tokens",
            prefilled[1:],
            "two are the least: at one the pass is left, and at the next, with no layer between, its pages are free",
        ),
    ]


def _cancel_rows(where: str, cancels: Sequence[_Cancel], least: str) -> list[Row]:
    name = f"serve, a cancelled request's pages are free, {where}"
    return [
        Row(
            f"{name}: since the connection was closed",
            "ms",
            Figure.of([cancel.milliseconds for cancel in cancels]),
            Figure.of([cancel.longest_way for cancel in cancels]),
            "FlexQuant, the longest way between two safe points of the same request",
            less_is_better=True,
        ),
        Row(
            f"{name}: safe points on the way",
            "safe points",
            Figure.of([cancel.safe_points for cancel in cancels]),
            None,
            least,
            less_is_better=True,
        ),
    ]


# --- servers


@contextmanager
def _ours(session: Session, program: Sequence[str] = ("-m", "flexquant.server.main")) -> Iterator[Server]:
    """Our daemon, or a program that takes its flags."""
    position = session.uniform_position(_BITS)
    python, _, _, *flags = session.daemon_command(position)
    room = ("--parallel", str(_SLOTS), "--context", str(session.scale.serve_context))
    with server([python, *program, *flags, *room]) as started:
        _warm_up(started)
        state = started.get("/v1/elastic")
        if state["position"] != position:
            raise ServerError(f"the daemon is at position {state['position']}, not {position}: is memory short?")
        yield started


@contextmanager
def _peer(session: Session) -> Iterator[Server | None]:
    program = session.peer_server
    if isinstance(program, str):
        yield None
        return
    scale = session.scale
    command = peer_server_command(
        program, session.peer_file(_BITS), threads=session.threads, slots=_SLOTS, context=scale.serve_context
    )
    session.notes["llama.cpp's server"] = (
        f"{peer_server_version(program)}; {_SLOTS} slots of {scale.serve_context} tokens"
    )
    with server(command) as started:
        _warm_up(started)
        yield started


def _warm_up(started: Server) -> None:
    started.first_token({"prompt": [300], "max_tokens": 1, "temperature": 0, "ignore_eos": True})


def _row(
    session: Session, name: str, unit: str, samples: Sequence[Sequence[float]], *, less_is_better: bool = False
) -> Row:
    """A row against llama.cpp's server; without one it says why.

    Args:
        session: Knows why.
        name: Of the row.
        unit: Of its figures.
        samples: Ours, and the peer's if there is one.
        less_is_better: For times.
    """
    ours, *theirs = samples
    peer = Figure.of(theirs[0]) if theirs else None
    against = session.peer_server if isinstance(session.peer_server, str) else _PEER
    return Row(name, unit, Figure.of(ours), peer, against, less_is_better=less_is_better)
