"""In what the families of decoders differ from each other."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traits:
    """What a family adds to the settings that all of them share."""

    attention_bias: bool
    """On q, k and v."""
    output_bias: bool
    """On o."""
    mlp_bias: bool
    """On gate, up and down."""
    default_context: int
    """Where config.json has no `max_position_embeddings`."""
    default_bos: int | None
    """Where config.json has no `bos_token_id`."""
    default_eos: tuple[int, ...]
    """Where neither config.json nor generation_config.json has an `eos_token_id`."""
    default_norm_eps: float = 1e-6
    """Where config.json has no `rms_norm_eps`."""
    head_norms: bool = False
    """Every head of the queries and of the keys goes through an RMS norm before it is turned by its position."""
    partial_rotary: bool = False
    """Whether `partial_rotary_factor` may be less than 1."""
    window: int | None = None
    """Tokens that the attention of some layer sees at most, the row's own included; None: all that are there."""
