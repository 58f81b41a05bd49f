"""flexquant-doctor on GPUs: what keeps the model from one, and no torch where there is no sign of one."""

from flexquant.engine.exllamav2.facts import GpuFacts
from flexquant.server.doctor import command
from flexquant.server.doctor.gpu import gpu

READY = GpuFacts(
    torch="2.11.0",
    torch_cuda="13.0",
    cards=("NVIDIA H100",),
    exllamav2="0.3.2",
    kernels="compiled at first use",
    toolkit="/usr/local/cuda",
    ninja=True,
    compiler="/usr/bin/c++",
)


def test_a_card_that_can_be_used() -> None:
    section = gpu(lambda: READY, lambda: True)
    for part in ("can be used", "NVIDIA H100", "0.3.2, kernels: compiled at first use", "/usr/local/cuda", "not used"):
        assert part in section.text()
    assert section.facts["usable"] is True


def test_what_is_missing_is_told() -> None:
    section = gpu(lambda: GpuFacts(missing=("torch is not installed", "no card")), lambda: True)
    assert "cannot be used: torch is not installed; no card" in section.text()
    assert section.facts["usable"] is False
    assert section.facts["missing"] == ("torch is not installed", "no card")


def test_without_any_sign_of_a_gpu_nothing_is_loaded() -> None:
    def never() -> GpuFacts:
        raise AssertionError("looked around")

    section = gpu(never, lambda: False)
    assert "models run on the CPU" in section.text()
    assert section.facts["usable"] is False


def test_it_is_a_section_of_the_command() -> None:
    assert [section.name for section in command.sections()] == ["memory", "compute", "system", "gpu", "missing"]
