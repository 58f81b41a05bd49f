"""What a machine has for serving on its GPU: what `flexquant doctor` tells. Compiles nothing and takes no memory."""

import importlib.util
import os
import shutil
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from flexquant.engine.exllamav2.version import VERSION


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """None where a thing is not there."""

    torch: str | None = None
    torch_cuda: str | None = None
    """CUDA version that torch was built for."""
    cards: tuple[str, ...] = ()
    """Names of the cards that torch can use."""
    exllamav2: str | None = None
    kernels: str = "missing"
    """Of exllamav2: "wheel" (compiled already), "compiled at first use", or "missing"."""
    toolkit: str | None = None
    """Folder of the CUDA toolkit, which compiling needs."""
    ninja: bool = False
    compiler: str | None = None
    """Path of the host's C++ compiler."""
    flash_attn: str | None = None
    """Version; it is not needed, and FlexQuant does not use it."""
    missing: tuple[str, ...] = field(default=())
    """What keeps the model from running on the GPU, in words; empty when nothing does."""


def gpu_facts() -> GpuFacts:
    """Look around."""
    torch_version, torch_cuda, cards = _torch()
    installed = _version("exllamav2")
    built = importlib.util.find_spec("exllamav2_ext") is not None
    toolkit, compiler = _toolkit(), shutil.which(os.environ.get("CXX", "c++"))
    ninja = shutil.which("ninja") is not None or importlib.util.find_spec("ninja") is not None
    missing = []
    if torch_version is None:
        missing.append("torch is not installed")
    elif torch_cuda is None:
        missing.append(f"torch {torch_version} was built without CUDA")
    elif not cards:
        missing.append("torch sees no NVIDIA GPU")
    if installed is None:
        missing.append(f"exllamav2 {VERSION} is not installed")
    elif installed != VERSION:
        missing.append(f"exllamav2 {installed} is installed, {VERSION} is needed")
    elif not built:
        for there, name in ((toolkit, "the CUDA toolkit (nvcc)"), (ninja, "ninja"), (compiler, "a C++ compiler")):
            if not there:
                missing.append(f"{name} is missing, which exllamav2's kernels are compiled with at first use")
    return GpuFacts(
        torch=torch_version,
        torch_cuda=torch_cuda,
        cards=cards,
        exllamav2=installed,
        kernels="missing" if installed is None else "wheel" if built else "compiled at first use",
        toolkit=toolkit,
        ninja=ninja,
        compiler=compiler,
        flash_attn=_version("flash-attn"),
        missing=tuple(missing),
    )


def _torch() -> tuple[str | None, str | None, tuple[str, ...]]:
    if importlib.util.find_spec("torch") is None:
        return None, None, ()
    import torch  # late: it takes a second, and may not be there

    cards = tuple(torch.cuda.get_device_name(card) for card in range(torch.cuda.device_count()))
    return torch.__version__, torch.version.cuda, cards


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _toolkit() -> str | None:
    """Where torch will look for it: CUDA_HOME, the nvcc on the path, or the usual folder."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    found = shutil.which("nvcc")
    for folder in (named, found and str(Path(found).resolve().parent.parent), "/usr/local/cuda"):
        if folder and (Path(folder) / "bin" / "nvcc").exists():
            return folder
    return None
