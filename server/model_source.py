"""What `--model` means: it always ends in an ensemble folder.

`demo` is embedded. A folder with a manifest is served as it is. A checkpoint, or a pair of EXL2 checkpoints, is built
into an ensemble once, by the builder in a process of its own, and kept in the user's cache: under a fingerprint of its
content if it is a folder, under its name and revision if it is on the hub. The builder downloads it; so the daemon
neither loads what that takes nor touches the network, and what was built once starts without one.
"""

import fcntl
import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

from flexquant.engine.errors import FlexQuantError, InputError, UsageError
from flexquant.engine.hub_id import HubId
from flexquant.engine.manifest import MANIFEST_NAME
from flexquant.engine.parent_process import ending_with_us

log = logging.getLogger(__name__)

DEMO: Final = "demo"
BUILDER: Final = (sys.executable, "-m", "flexquant.ensemble_builder")
LEVELS: Final = "8,3"
RECIPE: Final = f"1:{LEVELS}"
"""Part of the cache key: changes when the same checkpoint should be built differently."""
_SAMPLE: Final = 2**20
_CANNOT: Final = (UsageError.exit_code, InputError.exit_code)
"""Exit codes of the builder for what starting again does not change."""


def resolve(source: str, environment: Mapping[str, str] = os.environ, *, device: str = "auto") -> Path:
    """The ensemble folder that `source` stands for; builds it first where that is needed.

    Args:
        source: What the user asked for.
        environment: Says where the cache is.
        device: Where the builder may compute: "auto", "cpu" or "cuda".

    Raises:
        UsageError: It names nothing that this version can serve.
        InputError: It names something that is missing or damaged, or of which no ensemble can be built.
        FlexQuantError: The builder failed.
    """
    if source == DEMO:
        return demo_folder()
    folder = Path(source).expanduser()
    if not folder.exists() and "," in source:
        return _from_pair(source, environment, device)
    if not folder.exists():
        return _from_hub(source, environment, device)
    if (folder / MANIFEST_NAME).is_file():
        return folder
    if not (folder / "config.json").is_file():
        raise InputError(
            f"--model {source}: neither an ensemble ({MANIFEST_NAME}) nor a checkpoint (config.json) is there",
            hint="Give an ensemble folder, a Hugging Face checkpoint folder, or 'demo'.",
        )
    if _is_exl2(folder):
        raise InputError(
            f"--model {source}: this is a single EXL2 checkpoint, and an elastic model needs two of the same model",
            hint="Give two of them, the larger first: --model 'A,B'. Or give the unquantized checkpoint.",
        )
    arguments = [str(folder), "--levels", LEVELS, "--device", device]
    return _built(source, folder.resolve().name, [fingerprint(folder)], arguments, environment)


def demo_folder() -> Path:
    """The embedded ensemble.

    Raises:
        InputError: This installation does not have it.
    """
    folder = Path(str(files("flexquant.server"))) / "demo"
    if not (folder / MANIFEST_NAME).is_file():
        raise InputError(
            "the embedded demo ensemble is missing from this installation", hint="Install flexquant again."
        )
    return folder


def _from_hub(source: str, environment: Mapping[str, str], device: str) -> Path:
    hub = HubId.parse(source)
    if hub is None:
        raise InputError(
            f"--model {source}: there is no such folder",
            hint="A model on the hub is written org/name or org/name@revision; '--model demo' needs no files.",
        )
    arguments = [str(hub), "--levels", LEVELS, "--device", device]
    return _built(source, hub.name, [str(hub)], arguments, environment)


def _from_pair(source: str, environment: Mapping[str, str], device: str) -> Path:
    parts = source.split(",")
    if len(parts) != 2:
        raise UsageError(f"--model {source}: a pair of EXL2 checkpoints is written A,B")
    (name, *_), identities, folders = zip(*[_of_pair(source, part.strip()) for part in parts], strict=True)
    arguments = ["--from-checkpoints", ",".join(folders), "--device", device]
    return _built(source, name, identities, arguments, environment)


def _of_pair(source: str, part: str) -> tuple[str, str, str]:
    """A checkpoint of a pair: its name, what it is known by in the cache, and how the builder is told."""
    folder = Path(part).expanduser()
    hub = HubId.parse(part)
    if hub is not None and not folder.exists():
        return hub.name, str(hub), str(hub)
    if not (folder / "config.json").is_file():
        raise InputError(f"--model {source}: {folder} is no checkpoint folder (config.json is missing)")
    if not _is_exl2(folder):
        raise InputError(
            f"--model {source}: {folder} is no EXL2 checkpoint",
            hint="A pair must be two EXL2 quantizations of one model; an unquantized checkpoint is given alone.",
        )
    return folder.resolve().name, fingerprint(folder), str(folder)


def _is_exl2(folder: Path) -> bool:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    quantization = config.get("quantization_config") if isinstance(config, dict) else None
    return isinstance(quantization, dict) and quantization.get("quant_method") == "exl2"


def _built(
    source: str, name: str, identities: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str]
) -> Path:
    """The cached ensemble of some checkpoints, built if it is not there yet.

    Args:
        source: What the user asked for, for messages.
        name: The beginning of its folder's name.
        identities: What the checkpoints are known by.
        arguments: Of the builder, to build it.
        environment: Says where the cache is.
    """
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flexquant" / "ensembles"
    key = hashlib.sha256("\n".join([RECIPE, *identities]).encode()).hexdigest()[:16]
    folder = cache / f"{name}-{key}"
    if (folder / MANIFEST_NAME).is_file():
        log.info("%s was built earlier, in %s; to build it anew, remove that folder", source, folder)
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second daemon waits for the first one's build
        if not (folder / MANIFEST_NAME).is_file():
            log.info(
                "building an ensemble of %s in %s; this is done once, and starting again goes on where it was stopped",
                source,
                folder,
            )
            done = subprocess.run(
                [*BUILDER, *arguments, "--preset", "quick", "--out", str(folder)],
                stdout=sys.stderr,
                env=ending_with_us(os.environ),
                check=False,
            )
            if done.returncode in _CANNOT:
                raise InputError(f"--model {source}: the ensemble could not be built (see above)")
            if done.returncode != 0:
                raise FlexQuantError(
                    f"--model {source}: the ensemble could not be built (see above)",
                    hint="Starting again goes on where the build stopped.",
                )
    return folder


def fingerprint(checkpoint: Path) -> str:
    """Hash of a checkpoint folder's content: whole small files, and of large ones size, beginning and end."""
    digest = hashlib.sha256()
    for path in sorted(checkpoint.iterdir()):
        if path.suffix not in {".json", ".safetensors", ".jinja"} or not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE))
            file.seek(max(size - _SAMPLE, 0))
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
