"""What `--model` means: it always ends in an ensemble folder.

`demo` is embedded. A folder with a manifest is served as it is. A checkpoint, or a pair of EXL2 checkpoints, is built
into an ensemble once, by the builder in a process of its own, and kept in the user's cache under a fingerprint of its
content.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

from flexquant.engine.errors import InputError, UsageError
from flexquant.engine.manifest import MANIFEST_NAME

log = logging.getLogger(__name__)

DEMO: Final = "demo"
BUILDER: Final = (sys.executable, "-m", "flexquant.ensemble_builder")
LEVELS: Final = "8,3"
RECIPE: Final = f"1:{LEVELS}"
"""Part of the cache key: changes when the same checkpoint should be built differently."""
_SAMPLE: Final = 2**20
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(source: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The ensemble folder that `source` stands for; builds it first where that is needed.

    Raises:
        UsageError: It names nothing that this version can serve.
        InputError: It names something that is missing or damaged, or the builder failed.
    """
    if source == DEMO:
        return _demo()
    folder = Path(source).expanduser()
    if not folder.exists() and "," in source:
        return _from_pair(source, environment)
    if not folder.exists():
        raise _not_found(source)
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
    return _built([folder], [str(folder), "--levels", LEVELS], environment)


def _demo() -> Path:
    folder = Path(str(files("flexquant.server"))) / "demo"
    if not (folder / MANIFEST_NAME).is_file():
        raise InputError(
            "the embedded demo ensemble is missing from this installation", hint="Install flexquant again."
        )
    return folder


def _not_found(source: str) -> InputError:
    if _HUB_ID.fullmatch(source):
        return InputError(
            f"--model {source}: there is no such folder, and this version does not download from the hub",
            hint=f"Download it first (hf download {source} --local-dir FOLDER), then give the folder.",
        )
    return InputError(f"--model {source}: there is no such folder", hint="'--model demo' needs no files.")


def _from_pair(source: str, environment: Mapping[str, str]) -> Path:
    folders = [Path(part.strip()).expanduser() for part in source.split(",")]
    if len(folders) != 2:
        raise UsageError(f"--model {source}: a pair of EXL2 folders is written A,B")
    for folder in folders:
        if not (folder / "config.json").is_file():
            raise InputError(f"--model {source}: {folder} is no checkpoint folder (config.json is missing)")
        if not _is_exl2(folder):
            raise InputError(
                f"--model {source}: {folder} is no EXL2 checkpoint",
                hint="A pair must be two EXL2 quantizations of one model; an unquantized checkpoint is given alone.",
            )
    return _built(folders, ["--from-checkpoints", ",".join(map(str, folders))], environment)


def _is_exl2(folder: Path) -> bool:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    quantization = config.get("quantization_config") if isinstance(config, dict) else None
    return isinstance(quantization, dict) and quantization.get("quant_method") == "exl2"


def _built(checkpoints: Sequence[Path], arguments: Sequence[str], environment: Mapping[str, str]) -> Path:
    """The cached ensemble of `checkpoints`, built with `arguments` if it is not there yet."""
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flexquant" / "ensembles"
    key = hashlib.sha256("".join([RECIPE, *map(fingerprint, checkpoints)]).encode()).hexdigest()[:16]
    folder = cache / f"{checkpoints[0].resolve().name}-{key}"
    if (folder / MANIFEST_NAME).is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second daemon waits for the first one's build
        if not (folder / MANIFEST_NAME).is_file():
            log.info("building an ensemble of %s in %s; this is done once", checkpoints[0], folder)
            done = subprocess.run(
                [*BUILDER, *arguments, "--preset", "quick", "--out", str(folder)], stdout=sys.stderr, check=False
            )
            if done.returncode != 0:
                raise InputError(
                    f"--model {checkpoints[0]}: the ensemble could not be built (see above)",
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
