"""What the command line tools share: flags that say where the daemon is, and errors without a traceback."""

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Final

from flexquant.clients.client import DEFAULT_URL, Client
from flexquant.clients.errors import ClientError
from flexquant.clients.sizes import format_size
from flexquant.clients.types import Elastic

Connect = Callable[[str | None], Client]
FAILED: Final = 1
"""Exit code: the daemon cannot be reached, or refuses."""
INTERRUPTED: Final = 128 + signal.SIGINT
"""Exit code, as shells have it."""


def parser(program: str, description: str, *, with_json: bool = True) -> argparse.ArgumentParser:
    """A parser with --url, and --json unless there is nothing to print as JSON."""
    made = argparse.ArgumentParser(prog=program, description=description)
    made.add_argument("--url", help=f"where the daemon listens (FLEXQUANT_URL; default: {DEFAULT_URL})")
    if with_json:
        made.add_argument("--json", action="store_true", help="print JSON")
    return made


def connect(url: str | None) -> Client:
    """A client for the daemon at `url`; the API key comes from FLEXQUANT_API_KEY."""
    return Client(url)


def report(program: str, action: Callable[[], None]) -> int:
    """Run `action`; an error goes to stderr, its hint on a line of its own. Returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that this terminal cannot write is no reason to fail
    try:
        action()
        sys.stdout.flush()
    except ClientError as error:
        sys.stderr.write(f"{program}: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read this has seen enough; what is still buffered must not be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return 0


def show(state: Elastic, *, as_json: bool) -> None:
    """Print where the model is, for people or as JSON."""
    text = json.dumps(asdict(state), indent=2) if as_json else _for_people(state)
    sys.stdout.write(f"{text}\n")


def place_in_words(state: Elastic) -> str:
    """Position and what holds it there: "3 of 10 (pinned to 3 for 20 s), moving to 4, never beyond 8"."""
    moving = f", moving to {state.target}" if state.target != state.position else ""
    return f"{state.position} of {state.max_position} ({mode_in_words(state)}){moving}{limit_in_words(state)}"


def mode_in_words(state: Elastic) -> str:
    """What the position goes by: "pinned to 3 for 20 s"."""
    mode = state.mode if state.pinned_position is None else f"pinned to {state.pinned_position}"
    if state.ttl_seconds is not None:
        mode += f" for {state.ttl_seconds:.0f} s"
    if state.override is not None:
        mode += f", overridden: {state.override} memory"
    return mode


def limit_in_words(state: Elastic) -> str:
    """How far it may go: ", never beyond 8"; empty if that is all the way."""
    return f", never beyond {state.worst_position}" if state.worst_position != state.max_position else ""


def _for_people(state: Elastic) -> str:
    low, up = state.footprint_range_bytes
    available = "unknown" if state.available_bytes is None else format_size(state.available_bytes)
    lines = [
        f"position   {place_in_words(state)}",
        f"footprint  {format_size(state.footprint_bytes)} (from {format_size(low)} to {format_size(up)})",
        f"quality    perplexity {state.quality.perplexity:.3f}, KL {state.quality.kl:.5f}",
        f"memory     {available} available, pressure {state.pressure}",
    ]
    lines += [f"           {source.name} does not answer: {source.error}" for source in state.sources if source.error]
    if state.refusing is not None:
        lines.append(f"refusing   new requests: {state.refusing}")
    if state.retained_bytes:
        lines.append(f"retained   {format_size(state.retained_bytes)} were released and have not arrived")
    if state.last_decision is not None:
        last = state.last_decision
        at = datetime.fromtimestamp(last.when).strftime("%H:%M:%S")
        lines.append(f"last       {last.what}: {last.from_position} to {last.to_position} at {at} ({last.why})")
    return "\n".join(lines)
