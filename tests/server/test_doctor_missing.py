"""flexquant-doctor: what is missing, and what that costs."""

from pathlib import Path
from typing import Any

import pytest

from flexquant.server.doctor.missing import missing
from flexquant.server.doctor.system import system

WHOLE: dict[str, dict[str, Any]] = {
    "memory": {"sources": {"host": {}, "psi": {}, "cgroup": {}}},
    "compute": {"kernels": "avx512-vnni"},
    "system": {"huge_pages": "madvise", "compiler": "/usr/bin/c++"},
    "gpu": {"usable": True},
}


@pytest.mark.parametrize(
    ("section", "facts", "names", "said"),
    [
        ("memory", {"sources": {"cgroup": {}}}, "pressure stall information", "psi=1"),
        ("memory", {"sources": {"psi": {}}}, "control groups", "--memory-budget"),
        ("memory", {"sources": {"psi": {}, "cgroup": {"error": "gone"}}}, "cgroup", "does not grow"),
        ("compute", {"kernels": "torch"}, "native kernels", "install FlexQuant again"),
        ("compute", {"kernels": "avx2"}, "AVX-512 VNNI", "prompts"),
        ("compute", {"kernels": "portable"}, "AVX2 or NEON dot products", "many times longer"),
        ("system", {"huge_pages": "never", "compiler": None}, "huge pages", "transparent_hugepage"),
        ("gpu", {"usable": False}, "a usable NVIDIA GPU", "CPU"),
    ],
)
def test_each_lack_is_told_with_its_cost(section: str, facts: dict[str, Any], names: str, said: str) -> None:
    found = missing(WHOLE | {section: facts}, "linux")
    assert list(found.facts) == [names]
    assert said in found.text()


def test_nothing_is_missing() -> None:
    assert "all that FlexQuant makes use of is here" in missing(WHOLE, "linux").text()
    assert missing(WHOLE, "linux").facts == {}
    assert missing(WHOLE | {"memory": {"sources": {"host": {}}}}, "darwin").facts == {}


def test_without_a_compiler_one_is_asked_for_first() -> None:
    bare: dict[str, dict[str, Any]] = {
        "compute": {"kernels": "torch"},
        "system": {"huge_pages": "madvise", "compiler": None},
    }
    assert "install g++ or clang++, then" in missing(WHOLE | bare, "linux").text()


def test_huge_pages_and_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "enabled"
    path.write_text("always madvise [never]\n")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert system(path).facts == {"huge_pages": "never", "compiler": None}
    path.write_text("always [madvise] never\n")
    monkeypatch.setenv("CXX", "sh -flag")
    found = system(path)
    assert found.facts["huge_pages"] == "madvise"
    assert str(found.facts["compiler"]).endswith("/sh")
    assert system(tmp_path / "none").facts["huge_pages"] is None
