"""What the command line tools share: flags that say where the daemon is, and errors without a traceback."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime

from flexquant.clients.client import DEFAULT_URL, Client
from flexquant.clients.errors import ClientError
from flexquant.clients.sizes import format_size
from flexquant.clients.types import Elastic

Connect = Callable[[str | None], Client]


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """A parser with --url and --json."""
    made = argparse.ArgumentParser(prog=program, description=description)
    made.add_argument("--url", help=f"where the daemon listens (FLEXQUANT_URL; default: {DEFAULT_URL})")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def connect(url: str | None) -> Client:
    """A client for the daemon at `url`; the API key comes from FLEXQUANT_API_KEY."""
    return Client(url)


def report(program: str, action: Callable[[], None]) -> int:
    """Run `action`; an error goes to stderr, its hint on a line of its own. Returns the exit code."""
    try:
        action()
    except ClientError as error:
        sys.stderr.write(f"{program}: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return 1
    return 0


def show(state: Elastic, *, as_json: bool) -> None:
    """Print where the model is, for people or as JSON."""
    text = json.dumps(asdict(state), indent=2) if as_json else _for_people(state)
    sys.stdout.write(f"{text}\n")


def _for_people(state: Elastic) -> str:
    low, up = state.footprint_range_bytes
    mode = state.mode if state.pinned_position is None else f"pinned to {state.pinned_position}"
    if state.ttl_seconds is not None:
        mode += f" for {state.ttl_seconds:.0f} s"
    if state.override is not None:
        mode += f", overridden: {state.override} memory"
    moving = f", moving to {state.target}" if state.target != state.position else ""
    limit = f", never beyond {state.worst_position}" if state.worst_position != state.max_position else ""
    available = "unknown" if state.available_bytes is None else format_size(state.available_bytes)
    lines = [
        f"position   {state.position} of {state.max_position} ({mode}){moving}{limit}",
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
