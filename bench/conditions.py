"""On what a run was made: figures mean nothing without it."""

import os
import platform
import time
from pathlib import Path

from bench.session import Session


def conditions(session: Session) -> dict[str, str]:
    """What a reader needs to know, by name."""
    shape = session.scale.shape
    ours, about = session.our_about, session.peer_about
    peer = (
        about
        if isinstance(about, str)
        else f"llama-cpp-python {about['version']} built from source; {' '.join(about['build'].split())}"
    )
    return when_and_where() | {
        "ours": f"FlexQuant {ours['version']}, kernels: {ours['kernels']}; "
        f"torch {ours['torch']}, Python {platform.python_version()}",
        "peer": peer,
        "model": f"Llama of random weights: {shape.layers} layers, {shape.hidden}/{shape.intermediate}, {shape.heads} "
        f"heads, {shape.kv_heads} KV heads, vocabulary {shape.vocab:,}; head at the same bits; keys and values 16 bits",
        "threads": f"{session.threads} on both sides; load average {os.getloadavg()[0]:.1f} over the minute before",
    }


def when_and_where() -> dict[str, str]:
    """The part that does not depend on what is measured."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
