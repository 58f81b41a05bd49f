"""The names that requests may give a model by. Pure."""

import os
from pathlib import Path

from flexquant.engine.hub_id import HubId


def names_of(source: str, name: str) -> frozenset[str]:
    """Every name that follows from where the model comes from; `--alias` adds others.

    Args:
        source: What `--model` says: a folder, a hub id, a pair of either.
        name: The model's name by its manifest; of a model from the hub this is "org/name".
    """
    names = {name, name.rpartition("/")[2]}
    if os.path.exists(Path(source).expanduser()):
        names.add(Path(os.path.abspath(Path(source).expanduser())).name)
    elif "," not in source:
        hub = HubId.parse(source)
        names |= {source} if hub is None else {source, str(hub), hub.repository, hub.name}
    return frozenset(names)
