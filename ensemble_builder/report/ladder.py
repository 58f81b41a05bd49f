"""A ladder of whole models, one every quarter of a bit: how large its rungs would be, computed from the config.

No such model is made or measured. Sizes are those that the builder's own allocation and the EXL2 format give.
"""

from typing import Final

from flexquant.engine.exl2.spec import COLUMN_MULTIPLE
from flexquant.engine.manifest import Manifest
from flexquant.engine.model_config import LinearShape, ModelConfig
from flexquant.ensemble_builder.bit_allocation import Sections, allocate
from flexquant.ensemble_builder.levels import NARROWEST, WIDEST
from flexquant.ensemble_builder.options import GROUP_SIZE
from flexquant.ensemble_builder.row_groups import groups_of

STEP_BITS: Final = 0.25


def group_size_of(manifest: Manifest) -> int:
    """Return the weights per scale that whole models beside an ensemble have: its own ones, if it says them."""
    made = manifest.quantization
    return GROUP_SIZE if made is None or made.group_size is None else made.group_size


def rungs(low: float, up: float) -> list[float]:
    """Return the widths of the ladder between two levels, falling; both ends are rungs.

    Empty where a level is outside the widths that a whole model can have.
    """
    if not NARROWEST <= low < up <= WIDEST:
        return []
    steps = int((up - low) / STEP_BITS + 1e-9)
    found = [up - STEP_BITS * step for step in range(steps + 1)]
    return found if found[-1] <= low + 1e-9 else [*found, low]


def module_bytes(config: ModelConfig, bits: float, group_size: int) -> int:
    """Return the payload bytes of all linear layers of a whole model of `bits` per weight."""
    shapes = config.linears()
    sections = allocate(shapes, bits, group_size)
    return sum(payload(shape, sections[shape.key], group_size) for shape in shapes)


def payload(shape: LinearShape, sections: Sections, group_size: int) -> int:
    """Return the bytes of the tensors that `exl2_pack.pack` makes."""
    padded = -(-shape.out_features // COLUMN_MULTIPLE) * COLUMN_MULTIPLE
    groups = groups_of(sections, group_size)
    codes = sum(group.rows * group.bits for group in groups) * padded // 8
    per_group = padded // 2 + 2 + 4  # scale codes of 4 bits, the largest scale, the group table
    return codes + len(groups) * per_group + 4 * shape.in_features + (2 * padded if shape.bias else 0)
