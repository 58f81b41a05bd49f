"""What the card does not compute, of all that the engine's model families need."""

from flexquant.engine.errors import UnsupportedModelError
from flexquant.engine.model_config import ModelConfig


def beyond_the_card(config: ModelConfig) -> str | None:
    """What of this model only the CPU computes; None if the card can run it.

    exllamav2 has kernels for both, but what this package does with them was never run on a card.
    """
    if config.head_norms:
        return f"norms of query and key heads ({config.architecture}) are computed on the CPU only"
    if config.rotary_dim != config.head_dim:
        return f"heads that are rotated in part ({config.architecture}) are computed on the CPU only"
    return None


def check_family(config: ModelConfig) -> None:
    """Refuse a model that the card cannot run.

    Raises:
        UnsupportedModelError: Says what of the model is the reason.
    """
    reason = beyond_the_card(config)
    if reason is not None:
        raise UnsupportedModelError(f"the model cannot run on a GPU: {reason}", hint="Serve with --device cpu.")
