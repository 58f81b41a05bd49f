"""Architectures that the engine runs: one file each, named as config.json's `model_type`."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Final

from flexquant.engine.config_fields import ConfigFields

if TYPE_CHECKING:
    from flexquant.engine.model_config import ModelConfig

SUPPORTED: Final = ("llama", "qwen2")


def parser(model_type: str) -> "Callable[[ConfigFields], ModelConfig]":
    """The function that reads the config of `model_type`, one of `SUPPORTED`."""
    parse: Callable[[ConfigFields], ModelConfig] = import_module(f"{__name__}.{model_type}").parse
    return parse
