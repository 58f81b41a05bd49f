"""Whether the model can be served on a GPU, and if not, why."""

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from flexquant.engine.exllamav2.facts import GpuFacts, gpu_facts
from flexquant.server.doctor.section import Section

_DRIVER: Final = Path("/proc/driver/nvidia/version")


def gpu(facts: Callable[[], GpuFacts] = gpu_facts, worth_looking: Callable[[], bool] | None = None) -> Section:
    """What is there and what is missing.

    Args:
        facts: Looks around, which imports torch.
        worth_looking: Whether there is any sign of a GPU; without one torch is not imported for it.
    """
    if not (worth_looking or _signs)():
        said = "no NVIDIA driver and no exllamav2 here; models run on the CPU"
        return Section("gpu", (("device cuda", said),), {"usable": False, "missing": [said]})
    found = facts()
    usable = not found.missing
    findings = (
        ("device cuda", "can be used" if usable else f"cannot be used: {'; '.join(found.missing)}"),
        ("cards", ", ".join(found.cards) or "none"),
        ("torch", f"{found.torch or 'none'}, CUDA {found.torch_cuda or 'none'}"),
        ("exllamav2", f"{found.exllamav2 or 'none'}, kernels: {found.kernels}"),
        ("CUDA toolkit", found.toolkit or "none found; only needed where kernels are compiled"),
        ("flash-attn", f"{found.flash_attn or 'none'}; not used"),
    )
    return Section("gpu", findings, asdict(found) | {"usable": usable})


def _signs() -> bool:
    return (
        _DRIVER.exists() or shutil.which("nvidia-smi") is not None or importlib.util.find_spec("exllamav2") is not None
    )
