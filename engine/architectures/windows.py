"""Sliding windows of attention, as the families declare them in config.json.

The engine's attention sees every token. Up to the length of the window that is the same, so a window is a limit of the
context and no reason to refuse a model.
"""

from typing import Final

from flexquant.engine.config_fields import ConfigFields

_DEFAULT: Final = 4096
"""What transformers takes where `sliding_window` is not there."""


def declared_window(fields: ConfigFields, *, default: int | None = _DEFAULT) -> int | None:
    """Return `sliding_window`, which is in force wherever it is there and not null; `default` where it is not there.

    Raises:
        CheckpointError: It is no size.
    """
    if "sliding_window" not in fields:
        return default
    return fields.size("sliding_window") if fields.has("sliding_window") else None


def chosen_window(fields: ConfigFields) -> int | None:
    """Return `sliding_window` if `use_sliding_window` says that it is in force, in however many layers.

    Raises:
        CheckpointError: A field has no usable value.
        UnsupportedModelError: `layer_types` names another kind of attention.
    """
    chosen = fields.flag("use_sliding_window", default=False)
    supported = ["full_attention", "sliding_attention"] if chosen else ["full_attention"]
    if any(kind not in supported for kind in fields.texts("layer_types")):
        raise fields.unsupported("layer_types", f"attention other than {' and '.join(supported)}")
    return declared_window(fields) if chosen else None
