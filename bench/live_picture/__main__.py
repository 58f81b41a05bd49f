"""`python -m bench.live_picture`, from the repository's root: play the scene, and draw it."""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.conditions import when_and_where
from bench.live_picture.drawing import draw
from bench.live_picture.scene import SceneError, play
from bench.machine.small_machine import MIB
from bench.soak.model import SHAPE, machine, model
from bench.worker import ROOT

_BASE: Final = 256 * MIB
"""What a daemon takes beyond the weights, KV pages included, and the other program before it takes anything."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture. Returns the exit code."""
    options = _parser().parse_args(arguments)
    if sys.platform != "linux":
        sys.stderr.write("error: the scene looks into /proc, and is played on Linux only\n")
        return 2
    ensemble = model(None, options.models)
    simulated = machine(ensemble, _BASE)
    try:
        with tempfile.TemporaryDirectory() as folder:
            scene = play(ensemble, simulated, SHAPE.vocab, Path(folder))
    except SceneError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    where = when_and_where()
    best, smallest = (size / 1e6 for size in scene.weights)
    conditions = (
        f"A Llama of random weights: {best:.0f} MB of them at its best, {smallest:.0f} MB while memory was short. "
        f"Two real processes share {simulated.memory // MIB} MiB.",
        f"{where['machine']}, load average {os.getloadavg()[0]:.1f}; {where['date'][:10]}",
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(draw(scene, conditions), encoding="utf-8")
    told = f"weights {best:.0f} to {smallest:.0f} MB and back; {len(scene.tokens)} tokens; {simulated.told}"
    sys.stdout.write(f"{options.out}: {told}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.live_picture",
        description="Draw memory and tokens while another program takes memory beside the daemon: two minutes.",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "live-resize.svg", metavar="FILE")
    parser.add_argument(
        "--models", type=Path, default=ROOT / "build" / "bench", metavar="DIR", help="keeps the generated model"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
