"""What the soak serves, and the machine that it runs on."""

import json
import shutil
from pathlib import Path
from typing import Final

from bench.machine.small_machine import MIB, Machine, footprints
from bench.our_model import write_ensemble
from bench.scale import BenchShape
from flexquant.engine.manifest import MANIFEST_NAME
from flexquant.server.model_source import DEMO, resolve
from support.ensembles import file_records  # bench.our_model makes it importable

SHAPE: Final = BenchShape(hidden=1024, intermediate=2816, layers=16, heads=16, kv_heads=2, vocab=4096, context=2048)
"""Some 200 MB at 8 bits and 50 MB at 2 bits, random weights: written in seconds, and large beside 8 MiB."""
NAME: Final = "demo"
"""Under which the requests of `bench.many_clients` ask for it."""
_TEMPLATE: Final = (
    "{% for message in messages %}[{{ message.role }}]\n{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def model(name: str | None, models: Path) -> Path:
    """The ensemble to serve: "demo", a folder, or without a name the bench's own, written if it is not there.

    Args:
        name: From the command line.
        models: Folder that keeps generated models.
    """
    if name == "demo":
        return resolve(DEMO)
    return _random(models) if name is None else Path(name)


def machine(ensemble: Path, base: int) -> Machine:
    """A machine on which the hogs decide how much the model may have.

    Args:
        ensemble: Served on it.
        base: Bytes that a daemon takes beyond the weights, and that others take anyway.
    """
    sizes = footprints(ensemble)
    elastic = sizes[0] - sizes[-1]
    low = max(16 * MIB, elastic // 3)
    return Machine(base + sizes[0] + 3 * low, critical=low // 2, low=low, target=3 * low // 2, high=2 * low)


def _random(models: Path) -> Path:
    folder = models / f"soak-{SHAPE.name}"
    if not folder.exists():
        unfinished = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        models.mkdir(parents=True, exist_ok=True)
        write_ensemble(unfinished, SHAPE)
        for settings in unfinished.rglob("tokenizer_config.json"):
            settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": _TEMPLATE}))
        manifest = json.loads((unfinished / MANIFEST_NAME).read_text())
        manifest["files"] = {name: record.model_dump() for name, record in file_records(unfinished).items()}
        (unfinished / MANIFEST_NAME).write_text(json.dumps(manifest))
        unfinished.rename(folder)
    return folder
