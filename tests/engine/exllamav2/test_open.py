"""On a machine without a GPU, or without exllamav2, the reason is told, and nothing heavy is loaded to find it."""

import importlib
import shutil
import subprocess
import sys

import pytest
import torch

from flexquant.engine.errors import UsageError
from flexquant.engine.exllamav2 import extension, facts
from flexquant.engine.exllamav2.extension import load_extension
from flexquant.engine.exllamav2.facts import gpu_facts
from flexquant.engine.exllamav2.open import card_compute, card_is_there
from flexquant.engine.exllamav2.version import VERSION
from support.daemon import clean_environment

HERE = torch.cuda.is_available()


@pytest.mark.skipif(HERE, reason="this machine has a GPU")
def test_all_that_is_missing_is_told() -> None:
    with pytest.raises(UsageError, match=r"exllamav2 .* not installed|no NVIDIA GPU|without CUDA") as caught:
        card_compute()
    assert "flexquant[cuda]" in (caught.value.hint or "")
    assert "--device cpu" in (caught.value.hint or "")
    assert not card_is_there()


def versions(monkeypatch: pytest.MonkeyPatch, **installed: str) -> None:
    monkeypatch.setattr(facts, "_version", lambda package: installed.get(package.replace("-", "_")))


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, exllamav2="0.2.9")
    found = gpu_facts()
    assert f"exllamav2 0.2.9 is installed, {VERSION} is needed" in found.missing
    assert found.flash_attn is None


def test_what_compiling_needs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, exllamav2=VERSION, flash_attn="2.8.0")
    monkeypatch.setattr(facts, "_toolkit", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    found = gpu_facts()
    assert found.kernels == "compiled at first use"
    assert found.flash_attn == "2.8.0"
    assert any("CUDA toolkit" in reason for reason in found.missing)
    assert any("C++ compiler" in reason for reason in found.missing)


def test_without_exllamav2_auto_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from flexquant.engine.exllamav2.open import card_is_there\n"
        "sys.modules['exllamav2'] = None\n"
        "import importlib.util\n"
        "importlib.util.find_spec = lambda name: None\n"
        "assert not card_is_there()\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torch saw a card, and the right exllamav2 was installed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(extension, "_installed_version", lambda: VERSION)


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("CUDA_HOME environment variable is not set"), "compiled or loaded: CUDA_HOME"),
        (RuntimeError("Ninja is required"), "Ninja is required"),
        (ModuleNotFoundError("No module named 'websockets'"), "cannot be used: No module named 'websockets'"),
    ],
)
def test_whatever_keeps_exllamav2_from_loading_is_told(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loading(_name: str) -> None:
        print("Loading exllamav2_ext extension (JIT)...")  # noqa: T201  # as exllamav2 does
        torch.set_num_threads(1)
        raise error

    threads = torch.get_num_threads()
    monkeypatch.setattr(importlib, "import_module", loading)
    with pytest.raises(UsageError, match=words):
        load_extension()
    assert torch.get_num_threads() == threads
    shown = capsys.readouterr()
    assert not shown.out
    assert "Loading" in shown.err


@pytest.mark.usefixtures("card")
def test_another_version_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "_installed_version", lambda: None)
    with pytest.raises(UsageError, match=f"exllamav2 {VERSION} is needed, and none is installed"):
        load_extension()
