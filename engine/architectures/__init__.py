"""The model families that the engine runs, one file each.

Each of their files has a function `traits`, which checks what only its own `config.json` can say. Adding a family means
adding its file here. `traits` and `windows` are what they share.
"""

from collections.abc import Callable
from typing import Final

from flexquant.engine.architectures import llama, mistral, phi3, qwen2, qwen3
from flexquant.engine.architectures.traits import Traits
from flexquant.engine.config_fields import ConfigFields

ARCHITECTURES: Final[dict[str, Callable[[ConfigFields], Traits]]] = {
    "llama": llama.traits,
    "mistral": mistral.traits,
    "phi3": phi3.traits,
    "qwen2": qwen2.traits,
    "qwen3": qwen3.traits,
}
"""By `model_type` of config.json."""
