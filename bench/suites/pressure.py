"""What a user sees and what the machine gets while another program needs memory: FlexQuant beside what users do today.

Each side has the machine for itself, one after the other: a conversation goes on; a hog takes as much at 1 GB/s as
makes memory short, stays, and leaves. The hog takes the same bytes each time. llama.cpp maps its file: those pages are
clean, and a system that is short may drop them without asking. So what a side gives back is told twice, as RssAnon and
as resident memory of all kinds. It also copies Q4_0 into a layout of its own, in anonymous memory, while the file stays
resident beside it; so it is measured as it comes, and with `--no-repack`, which is what RAMP's budgets expect.
"""

import math
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from bench.figures import Figure
from bench.machine.conversation import ANSWER, Conversation, computed_again
from bench.machine.helpers import Hog, running_daemon
from bench.machine.series import Look, crossing, settled, without_release
from bench.machine.sides import BEST, SMALL, Daemon, Side, WholeSwap, ramp
from bench.machine.small_machine import Machine, footprints, under_pressure
from bench.machine.watch import ProcessMemory, Watch
from bench.peer_server import peer_server_command, peer_server_version
from bench.row import Row
from bench.server_process import ServerError
from bench.session import Session

_TAKE: Final = 1_000_000_000
_PER_SECOND: Final = 50
_CONTEXT: Final = 4096
_CALM_TURNS: Final = 2
_INTO_ANSWER: Final = 8
"""Parts of an answer after which the hog begins: in the middle of it, not while its prompt is computed."""
_GIVE_UP_SECONDS: Final = 300.0
_BACK_SECONDS: Final = 240.0
_NO_REPACK: Final = "--no-repack"
_ASK_SECONDS: Final = 0.2
"""Between two questions to a side about itself: asking costs it something."""
_AFTERWARDS_SECONDS: Final = 5.0
_SHARE: Final = 0.95
_SHORT: Final = 0.3
"""What the hog takes beyond R_low, as a share of what 8 bits have beyond 4."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """One side; times in seconds, memory in bytes."""

    name: str
    taken: int
    """By the hog."""
    calm_gap: float
    gap: float
    anonymous: int
    resident: int
    """What was given back while the hog stayed: of anonymous memory, and of all that was resident."""
    until_given: float | None
    """From where memory would have been short without it, until it was given back for good; None without an effect."""
    lost: int
    again: int | None
    back: float | None


def run(session: Session) -> list[Row]:
    """One run of each side."""
    session, machine = under_pressure(session)
    session.notes["machine of the pressure suite"] = machine.told
    sizes = footprints(session.ensemble)
    larger = sizes[0] - sizes[session.uniform_position(SMALL)]
    sides: list[_Seen] = []
    taken = None
    for make in (_flexquant, _as_it_comes, _not_repacked, _ramp):
        with (
            tempfile.TemporaryDirectory() as folder,
            Hog(machine.memory, seconds=1200) as hog,
            make(session, machine, hog, Path(folder)) as side,
        ):
            if side is not None:
                sides.append(_press(session, machine, hog, side, round(_SHORT * larger), taken))
                taken = sides[0].taken
    session.notes["hog of the pressure suite"] = (
        f"{sides[0].taken / 1e9:.3g} GB at 1 GB/s, stays {session.scale.hold_seconds:g} s; a conversation of "
        f"{session.scale.conversation_tokens:,} tokens and more, answers of {ANSWER} tokens one after the other"
    )
    ours, *others = sides
    if not others:
        return _rows(ours, None, session.notes["llama.cpp's server"])
    return [row for other in others for row in _rows(ours, other, "")]


def _press(session: Session, machine: Machine, hog: Hog, side: Side, short: int, taken: int | None) -> _Seen:
    """One side under pressure.

    Args:
        session: Sizes.
        machine: On which it lives.
        hog: Takes memory.
        side: Talks meanwhile.
        short: Bytes that shall be missing to R_low, for the first side.
        taken: What the hog takes, for the others: the same.
    """
    scale = session.scale
    conversation = Conversation(side.port, scale.conversation_tokens, _context(session), scale.shape.vocab)
    with Watch(_Holding(side, hog), _PER_SECOND) as watch, conversation.running():
        _wait(lambda: len(conversation.turns) > _CALM_TURNS, "the conversation does not begin")
        told = len(conversation.pieces) + _INTO_ANSWER
        _wait(lambda: len(conversation.pieces) >= told, "the conversation does not go on")
        began = time.monotonic()
        before = watch.looks[-1]
        taken = taken or _free(before, machine) - machine.low + short
        hog.take(taken, per_second=_TAKE)
        time.sleep(scale.hold_seconds)
        held = watch.looks[-1]
        hog.give_back()
        left = time.monotonic()
        back = _wait(side.best, None)
        time.sleep(_AFTERWARDS_SECONDS)
        ended = time.monotonic()
    looks = [Look(look.time, (sum(look.held[:2]), look.held[2])) for look in watch.looks if look.time <= held.time]
    needed = crossing(without_release(looks, began), machine.memory, machine.low)
    resident = sum(before.held[:2]) - sum(held.held[:2])
    given = settled(
        [(look.time, look.held[0]) for look in looks if look.time >= began], sum(before.held[:2]) - _SHARE * resident
    )
    return _Seen(
        name=side.name,
        taken=taken,
        calm_gap=_longest([piece for piece in conversation.pieces if piece <= began], 0.0, began),
        gap=_longest(conversation.pieces, began, ended),
        anonymous=before.held[0] - held.held[0],
        resident=resident,
        until_given=None if needed is None or given is None or resident <= 0 else given - needed,
        lost=conversation.lost,
        again=computed_again(conversation.turns, began),
        back=None if back is None else back - left,
    )


class _Holding:
    """What a side and the hog hold: anonymous and file pages of the side, anonymous ones of the hog."""

    def __init__(self, side: Side, hog: Hog) -> None:
        self._side = side
        self._hog = ProcessMemory(hog.pid)
        self._memories: dict[int, ProcessMemory] = {}

    def __call__(self) -> tuple[int, ...]:
        found = [self._of(pid) for pid in self._side.pids()]
        return sum(one[0] for one in found), sum(one[1] for one in found), self._hog.read()[0]

    def _of(self, pid: int) -> tuple[int, int]:
        try:
            return self._memories.setdefault(pid, ProcessMemory(pid)).read()
        except FileNotFoundError:  # it has ended
            return 0, 0


def _free(look: Look, machine: Machine) -> int:
    return machine.memory - sum(look.held)


def _longest(pieces: Sequence[float], begin: float, end: float) -> float:
    """Longest time without a part of an answer, of the gaps that overlap with `begin` to `end`."""
    return max((after - before for before, after in pairwise(pieces) if before < end and after > begin), default=0.0)


def _wait(done: Callable[[], bool], otherwise: str | None) -> float | None:
    """When it was done; None if that takes too long and nobody says what is wrong then."""
    deadline = time.monotonic() + (_BACK_SECONDS if otherwise is None else _GIVE_UP_SECONDS)
    while not done():
        if time.monotonic() > deadline:
            if otherwise is None:
                return None
            raise ServerError(otherwise)
        time.sleep(_ASK_SECONDS)
    return time.monotonic()


# --- sides


@contextmanager
def _flexquant(session: Session, machine: Machine, hog: Hog, folder: Path) -> Iterator[Side | None]:
    patience = session.scale.patience_seconds
    flags = [*machine.flags([hog.pid]), f"--context={_context(session)}", f"--threads={session.threads}"]
    flags += [f"--grow-window={patience:g}", f"--cooldown={patience:g}"]
    with running_daemon(folder, *flags, model=str(session.ensemble)) as daemon:
        side = Daemon(daemon)
        _wait(side.best, "the daemon does not come to position 0")
        yield side


@contextmanager
def _as_it_comes(session: Session, machine: Machine, hog: Hog, _: Path) -> Iterator[Side | None]:
    with _whole_swap(session, machine, hog, "llama.cpp's server, Q8_0 to Q4_0 to Q8_0") as side:
        yield side


@contextmanager
def _not_repacked(session: Session, machine: Machine, hog: Hog, _: Path) -> Iterator[Side | None]:
    with _whole_swap(session, machine, hog, "llama.cpp's server, the same with --no-repack", _NO_REPACK) as side:
        yield side


@contextmanager
def _whole_swap(session: Session, machine: Machine, hog: Hog, name: str, *flags: str) -> Iterator[Side | None]:
    program = session.peer_server
    if isinstance(program, str):
        session.notes["llama.cpp's server"] = program
        yield None
        return
    session.notes["llama.cpp's server"] = f"{peer_server_version(program)}; files in the page cache, mapped"
    sizes = {bits: _cached(session.peer_file(bits)) for bits in (BEST, SMALL)}
    swap = WholeSwap(name, _command(session, program, *flags), machine, hog, sizes[BEST] - sizes[SMALL])
    with swap.running() as side:
        yield side


@contextmanager
def _ramp(session: Session, machine: Machine, hog: Hog, folder: Path) -> Iterator[Side | None]:
    program, python = session.peer_server, session.peer_python
    version = None if python is None else _ramp_version(python)
    if isinstance(program, str) or python is None or version is None:
        session.notes["RAMP"] = program if isinstance(program, str) else "ramp-llm is not installed beside llama.cpp"
        yield None
        return
    session.notes["RAMP"] = (
        f"ramp-llm {version}, its defaults (two samples 3 s apart to swap down, 120 s of room to come back) but for "
        "the reserves, which are the machine's; it lets answers end before it swaps"
    )
    files = {bits: session.peer_file(bits) for bits in (BEST, SMALL)}
    for path in files.values():
        _cached(path)
    with ramp(python, _command(session, program, _NO_REPACK), machine, hog, files, folder) as side:
        yield side


def _command(session: Session, program: Path, *flags: str) -> Callable[[int], list[str]]:
    files = {bits: session.peer_file(bits) for bits in (BEST, SMALL)}  # now: asking for one takes a second
    context = _context(session)

    def command(bits: int) -> list[str]:
        return [*peer_server_command(program, files[bits], threads=session.threads, slots=1, context=context), *flags]

    return command


def _context(session: Session) -> int:
    return min(_CONTEXT, session.scale.shape.context)


def _cached(path: Path) -> int:
    """Bring a file into the page cache; returns its bytes."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass
    return path.stat().st_size


def _ramp_version(python: str) -> str | None:
    """Of `ramp-llm`; None without it."""
    program = "from importlib.metadata import version; print(version('ramp-llm'))"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


# --- rows


def _rows(ours: _Seen, other: _Seen | None, why: str) -> list[Row]:
    """Ours beside another side; without one the rows say why."""
    against = why if other is None else other.name

    def row(name: str, unit: str, of: Callable[[_Seen], float | None], *, less: bool = False) -> Row:
        """A time that never came is infinite."""
        mine, theirs = of(ours), None if other is None else of(other)
        return Row(
            f"pressure, {name}",
            unit,
            Figure.exact(math.inf if mine is None else mine),
            None if other is None else Figure.exact(math.inf if theirs is None else theirs),
            against,
            less_is_better=less,
        )

    return [
        row("longest time without a token, from the hog's first byte on", "s", lambda seen: seen.gap, less=True),
        row("longest time without a token before it, turns of the conversation included", "s", _calm, less=True),
        row("given back while the hog stays: resident memory of all kinds", "MB", lambda seen: seen.resident / 1e6),
        row("given back while the hog stays: anonymous memory", "MB", lambda seen: seen.anonymous / 1e6),
        row(
            "from where memory would have been short to given back for good",
            "s",
            lambda seen: seen.until_given,
            less=True,
        ),
        row("tokens of answers that were cut off", "tokens", lambda seen: seen.lost, less=True),
        row("prompt tokens computed again", "tokens", lambda seen: seen.again, less=True),
        row("from the hog's end to the best model again", "s", lambda seen: seen.back, less=True),
    ]


def _calm(seen: _Seen) -> float:
    return seen.calm_gap
