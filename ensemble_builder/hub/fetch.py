"""A checkpoint of the hub in a folder of this machine, in the cache that the hub's own library keeps for every tool.

What the model is gets read before its weights are downloaded, so that what cannot be used costs no gigabytes.
HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean to that library.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi, RepoFile, ResolvedRevision, get_cached_repo_tree, hf_hub_url, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError
from huggingface_hub.utils import build_hf_headers, disable_progress_bars  # type: ignore[attr-defined]  # no __all__

from flexquant.engine.config_fields import ConfigFields, read_object
from flexquant.engine.errors import InputError
from flexquant.engine.hub_id import HubId
from flexquant.engine.model_config import read_model_config
from flexquant.engine.tokenizer import Tokenizer
from flexquant.ensemble_builder.hub.disk_room import Room
from flexquant.ensemble_builder.hub.needed_files import CONFIGS, INDEX, descriptions, weights
from flexquant.ensemble_builder.hub.problems import told
from flexquant.ensemble_builder.hub.resumed_file import fetch_file
from flexquant.ensemble_builder.progress import Progress

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
EXL2_PREFIX: Final = "output"
"""Of the weight files that exllamav2's converter writes."""


def fetch_checkpoint(source: HubId, *, quantized: bool, room: Room, progress: Progress) -> Path:
    """Download a checkpoint, or what is missing of it, and return its folder.

    The network is not needed where the cache has all of it, and not touched where `source` names a commit.

    Args:
        source: The model.
        quantized: Whether an EXL2 checkpoint is asked for, or an unquantized one.
        room: Where the ensemble is going to be, for the disks to be looked at before anything large is downloaded.
        progress: Is told what is being done.

    Raises:
        InputError: The hub does not give the model, or it is not one that an ensemble can be built of.
        FlexQuantError: The hub cannot be reached, a disk is too small, or what arrived is damaged.
    """
    disable_progress_bars()
    with told(source):
        revision = HfApi().resolve_revision(source.repository, revision=source.revision)
        folder = _kept(source, revision)
        if folder is None:
            folder = _download(source, revision, quantized, room, progress)
        else:
            names = _weights_in(folder, [path.name for path in folder.iterdir()])
            _check_kind(source, folder, names, quantized)
            whole = sum((folder / name).stat().st_size for name in names)
            room.check(source, read_model_config(folder), folder, missing=0, whole=whole)
        progress.note(f"{source}: is in {folder}")
        return folder


def fetch_config(source: HubId) -> tuple[Path, int]:
    """Download what says how large an unquantized model is, and nothing else.

    Returns:
        The folder with its config.json, and the bytes of its weights.

    Raises:
        InputError: The hub does not give the model, or it is not one that an ensemble can be built of.
        FlexQuantError: The hub cannot be reached.
    """
    disable_progress_bars()
    with told(source):
        revision = HfApi().resolve_revision(source.repository, revision=source.revision)
        folder = _kept(source, revision)
        if folder is not None:
            sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        else:
            listed = HfApi().list_repo_tree(source.repository, revision=revision.resolved)
            sizes = {file.path: file.size for file in listed if isinstance(file, RepoFile)}
            _check_offered(source, sizes)
            folder = Path(snapshot_download(source.repository, revision=revision, allow_patterns=[*CONFIGS, INDEX]))
        names = _weights_in(folder, sizes)
        _check_kind(source, folder, names, quantized=False)
        return folder, sum(sizes[name] for name in names)


def _kept(source: HubId, revision: ResolvedRevision) -> Path | None:
    """The folder of that commit if all files that we read are there, by the listing that the cache keeps."""
    try:
        names = [file.path for file in get_cached_repo_tree(source.repository, revision=revision)]
        folder = Path(snapshot_download(source.repository, revision=revision, allow_patterns=[], local_files_only=True))
    except (CachedRepoTreeNotFoundError, FileNotFoundError):
        return None
    needed = _weights_in(folder, names)
    complete = needed and all((folder / name).is_file() for name in [*needed, *descriptions(names)])
    return folder if complete else None


def _download(source: HubId, revision: ResolvedRevision, quantized: bool, room: Room, progress: Progress) -> Path:
    listed = HfApi().list_repo_tree(source.repository, revision=revision.resolved)
    files = {file.path: file for file in listed if isinstance(file, RepoFile)}
    _check_offered(source, files)
    small = descriptions(files)
    progress.note(f"{source}: is commit {revision.resolved}")
    folder = Path(snapshot_download(source.repository, revision=revision, allow_patterns=small))
    config = read_model_config(folder)
    Tokenizer.open(folder)
    names = _weights_in(folder, files)
    _check_kind(source, folder, names, quantized)
    large = {
        folder.parents[1] / "blobs" / file.lfs.sha256: file
        for name in names
        if (file := files[name]).lfs and _SHA256.fullmatch(file.lfs.sha256)  # it becomes a file's name here
    }
    whole = sum(file.size for file in large.values())
    missing = whole - sum(_bytes_there(blob, file.size) for blob, file in large.items())
    room.check(source, config, folder, missing=missing, whole=whole)
    _fetch_large(source, revision, large, progress)
    return Path(snapshot_download(source.repository, revision=revision, allow_patterns=[*small, *names]))


def _fetch_large(source: HubId, revision: ResolvedRevision, large: Mapping[Path, RepoFile], progress: Progress) -> None:
    """Put the weights where the library's cache looks for them; it only links them then."""
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a part of a file has no meaning compressed
    total = sum(file.size for file in large.values())
    with progress.stage(f"downloading {source}", total, show=_megabytes) as stage:
        for blob, file in large.items():
            fetch_file(
                hf_hub_url(source.repository, file.path, revision=revision.resolved),
                headers,
                blob,
                size=file.size,
                sha256=blob.name,
                kept=stage.skip,
                arrived=stage.advance,
            )


def _check_offered(source: HubId, names: Collection[str]) -> None:
    """Refuse a repository in which something is missing that cannot be done without."""
    branches = f"EXL2 quantizations are often on branches of their own: {source.repository}@BRANCH."
    if "config.json" not in names:
        raise InputError(f"{source}: this repository has no config.json, so it is no checkpoint", hint=branches)
    if not weights(names):
        raise InputError(
            f"{source}: this repository has no *.safetensors file, and no other kind of weights is read",
            hint="Look for the model's original repository, or a conversion to safetensors.",
        )
    if "tokenizer.json" not in names:
        raise InputError(
            f"{source}: this repository has no tokenizer.json",
            hint="Download it, save its tokenizer with transformers' AutoTokenizer, and give the folder.",
        )


def _check_kind(source: HubId, folder: Path, names: Sequence[str], quantized: bool) -> None:
    """Refuse an EXL2 checkpoint where an unquantized one is asked for, and the other way round."""
    method = ConfigFields.read(folder / "config.json").section("quantization_config").text("quant_method", "")
    is_exl2 = method == "exl2" or any(name.startswith(EXL2_PREFIX) for name in names)
    if is_exl2 and not quantized:
        raise InputError(
            f"{source}: this is a single EXL2 checkpoint, and an ensemble needs two of the same model",
            hint="Give two of them, the larger first: flexquant-serve --model org/name@6.0bpw,org/name@3.0bpw, or "
            "flexquant-build --from-checkpoints. Or give the unquantized model.",
        )
    if quantized and not is_exl2:
        raise InputError(
            f"{source}: this is no EXL2 checkpoint",
            hint="A pair must be two EXL2 quantizations of one model; an unquantized model is given alone.",
        )


def _weights_in(folder: Path, names: Collection[str]) -> list[str]:
    index = folder / INDEX
    return weights(names, read_object(index) if index.is_file() else None)


def _bytes_there(blob: Path, size: int) -> int:
    """Bytes of a file that need no downloading any more."""
    if blob.exists():
        return size
    part = blob.with_name(f"{blob.name}.incomplete")
    return min(part.stat().st_size, size) if part.exists() else 0


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"
