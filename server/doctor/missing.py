"""What this machine lacks, and what each lack costs. Pure: judged from what the other sections found."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from flexquant.engine.compute import TORCH
from flexquant.server.doctor.section import Section

Facts = Mapping[str, Mapping[str, Any]]
"""Of each section, by its name."""
_SLOWER: Final = {
    "avx2": ("AVX-512 VNNI", "prompts and several answers at a time take longer; one answer hardly does"),
    "portable": ("AVX2 or NEON dot products", "tokens take many times longer"),
}
"""By kernels in use: the instructions that are missed, and what that costs."""


def missing(facts: Facts, platform: str = sys.platform) -> Section:
    """One finding for each thing that is not there.

    Args:
        facts: Of the sections "memory", "compute", "system" and "gpu".
        platform: As in `sys.platform`.
    """
    found = tuple(_lacks(facts, platform))
    return Section("missing", found or (("nothing", "all that FlexQuant makes use of is here"),), dict(found))


def _lacks(facts: Facts, platform: str) -> Iterator[tuple[str, str]]:
    sources = facts["memory"]["sources"]
    for name, source in sources.items():
        if "error" in source:
            yield name, "does not answer: the model does not grow while that lasts"
    if platform == "linux" and "psi" not in sources:
        yield (
            "pressure stall information",
            "that programs wait for memory is not seen: the model shrinks by what is available alone. Boot with psi=1",
        )
    if platform == "linux" and "cgroup" not in sources:
        yield "control groups", "a limit of a container or a service is not seen: give --memory-budget there"
    compute = facts["compute"]
    if compute["kernels"] == TORCH:
        how = (
            "install FlexQuant again" if facts["system"]["compiler"] else "install g++ or clang++, then FlexQuant again"
        )
        yield "native kernels", f"tokens take many times longer: {how}"
    elif compute["kernels"] in _SLOWER:
        yield _SLOWER[compute["kernels"]]
    if facts["system"]["huge_pages"] == "never":
        yield (
            "huge pages",
            "weights are read through many small pages, which takes longer. As root: "
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )
    if not facts["gpu"]["usable"]:
        yield "a usable NVIDIA GPU", "models run on the CPU"
