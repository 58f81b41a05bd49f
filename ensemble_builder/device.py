"""Where models are measured: on the processor, or on an NVIDIA GPU; and how much memory there is for what is kept."""

import argparse
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch

from flexquant.engine.errors import UsageError
from flexquant.engine.torch_scratch import HOST
from flexquant.ensemble_builder.bounded_weights import KEPT_BYTES
from flexquant.ensemble_builder.eqm import CACHE_BYTES

Asked = Literal["auto", "cpu", "cuda"]

CARD: Final = torch.device("cuda")
"""The first card that torch sees; CUDA_VISIBLE_DEVICES chooses another one."""
_SHARE_OF_STATES: Final = 0.25
_SHARE_OF_WEIGHTS: Final = 0.4
"""Of the card's free memory. The rest is for a layer in float32, its activations, and tiles of logits."""
_SPARE: Final = 0.2
"""Share of the card's free memory that stays free where a whole model is kept there."""


def add_device(parser: argparse.ArgumentParser, what: str = "where candidates are measured") -> None:
    """Add the flag `--device`."""
    parser.add_argument(
        "--device",
        choices=get_args(Asked),
        default="auto",
        help=f"{what}: auto takes an NVIDIA GPU where torch sees one (default: auto)",
    )


def choose_device(asked: Asked) -> str:
    """Return torch's name of the device to compute on.

    Raises:
        UsageError: A card was asked for, and torch sees none.
    """
    there = asked != "cpu" and torch.cuda.is_available()
    if asked == "cuda" and not there:
        why = "was built without CUDA" if torch.version.cuda is None else "sees no NVIDIA GPU"
        raise UsageError(f"--device cuda: torch {torch.__version__} {why}", hint="Use --device cpu.")
    return (CARD if there else HOST).type


@dataclass(frozen=True, slots=True)
class Kept:
    """Most bytes of what is kept between uses.

    Args:
        states: Of hidden states.
        weights: Of float32 copies of one store's weights.
    """

    states: int = CACHE_BYTES
    weights: int = KEPT_BYTES

    @classmethod
    def on(cls, device: torch.device, stores: int) -> "Kept":
        """What a device has room for: the host always the same, a card by its free memory.

        Args:
            device: The device.
            stores: Stores whose weights are kept.
        """
        if device == HOST:
            return cls()
        free, _ = torch.cuda.mem_get_info(device)
        return cls(int(free * _SHARE_OF_STATES), int(free * _SHARE_OF_WEIGHTS) // stores)


def has_room(device: torch.device, nbytes: int) -> bool:
    """Whether a device can keep a whole model of so many bytes; the host is not asked, as it can swap."""
    return device == HOST or torch.cuda.mem_get_info(device)[0] * (1 - _SPARE) >= nbytes
