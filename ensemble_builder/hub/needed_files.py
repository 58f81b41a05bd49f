"""Which files of a repository a checkpoint consists of, as far as we read it. Pure."""

from collections.abc import Collection, Iterable
from typing import Any, Final

INDEX: Final = "model.safetensors.index.json"
ONLY_FILE: Final = "model.safetensors"
WEIGHTS_SUFFIX: Final = ".safetensors"
CONFIGS: Final = ("config.json", "generation_config.json")
DESCRIPTIONS: Final = (
    *CONFIGS,
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    INDEX,
)
"""All that is read beside the weights."""


def descriptions(names: Collection[str]) -> list[str]:
    """Those of `names`, the files of a repository, that describe the model."""
    return [name for name in DESCRIPTIONS if name in names]


def weights(names: Iterable[str], index: object = None) -> list[str]:
    """Those of `names`, the files of a repository, that hold the model's weights; sorted, without folders below.

    Repositories often hold the same weights a second time, in another layout or in files that have to be unpickled.

    Args:
        names: All files.
        index: Content of the file `INDEX`. One that names files which are not there is stale: quantizers copy it along.
    """
    safe = {name for name in names if name.endswith(WEIGHTS_SUFFIX) and "/" not in name}
    named = _named_by(index)
    if named and named <= safe:
        return sorted(named)
    return [ONLY_FILE] if ONLY_FILE in safe else sorted(safe)


def _named_by(index: object) -> set[Any]:
    match index:
        case {"weight_map": dict(files)}:
            return {name for name in files.values() if isinstance(name, str)}
        case _:
            return set()
