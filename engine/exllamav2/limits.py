"""What the card does not compute, of all that the engine's model families and ensembles need."""

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import UnsupportedModelError


def beyond_the_card(ensemble: Ensemble) -> str | None:
    """What of this ensemble only the CPU computes; None if the card can run it.

    exllamav2 has kernels for the parts of families, but what this package does with them was never run on a card.
    """
    config = ensemble.config
    if any(module.columns is not None for module in ensemble.manifest.modules):
        return "the ensemble is cut into column slices (--max-step), and exllamav2 runs whole layers only"
    if ensemble.manifest.method != "exl2":
        return f"its quantization is {ensemble.manifest.method}, and exllamav2 has kernels for EXL2 only"
    if ensemble.manifest.nested:
        return "the ensemble is nested (--nested), and exllamav2 has no sums of two matrices"
    if config.head_norms:
        return f"norms of query and key heads ({config.architecture}) are computed on the CPU only"
    if config.rotary_dim != config.head_dim:
        return f"heads that are rotated in part ({config.architecture}) are computed on the CPU only"
    return None


def check_limits(ensemble: Ensemble) -> None:
    """Refuse an ensemble that the card cannot run.

    Raises:
        UnsupportedModelError: Says what of the model is the reason.
    """
    reason = beyond_the_card(ensemble)
    if reason is not None:
        raise UnsupportedModelError(f"the model cannot run on a GPU: {reason}", hint="Serve with --device cpu.")
