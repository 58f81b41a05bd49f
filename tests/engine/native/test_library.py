"""Finding and loading the native library, and choosing among its kernels."""

import _ctypes
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexquant.engine.native import library
from flexquant.engine.native.library import (
    NativeUnavailableError,
    choose_kernels,
    chosen_kernels,
    kernel_names,
    load,
    set_threads,
    threads,
)
from support.native_layers import KERNELS, needs_native, using


@pytest.fixture
def loaded_anew() -> Iterator[None]:
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="there is no compiler to build it")
def test_the_library_was_built_where_there_is_a_compiler() -> None:
    assert KERNELS
    assert KERNELS[-1] == "portable"


@pytest.mark.usefixtures("loaded_anew")
def test_a_library_that_was_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "FILE_NAME", "libnone.so")
    with pytest.raises(NativeUnavailableError, match=r"libnone\.so was not built") as raised:
        load()
    assert "compiler" in str(raised.value.hint)


@pytest.mark.usefixtures("loaded_anew")
def test_a_file_that_is_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "libtext.so").write_text("no library")
    monkeypatch.setattr(library, "FILE_NAME", str(tmp_path / "libtext.so"))
    with pytest.raises(NativeUnavailableError, match=r"libtext\.so cannot be used"):
        load()


@pytest.mark.usefixtures("loaded_anew")
def test_a_library_of_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "FILE_NAME", _ctypes.__file__)
    with pytest.raises(NativeUnavailableError, match=r"cannot be used: .*fq_abi_version"):
        load()


@needs_native
@pytest.mark.usefixtures("loaded_anew")
def test_a_library_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "ABI_VERSION", library.ABI_VERSION + 1)
    found, wanted = library.ABI_VERSION - 1, library.ABI_VERSION
    with pytest.raises(NativeUnavailableError, match=rf"is of version {found}, this is {wanted}"):
        load()


@needs_native
@pytest.mark.usefixtures("loaded_anew")
def test_a_library_without_one_of_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(library._SIGNATURES, "fq_none", (None, []))
    with pytest.raises(NativeUnavailableError, match=r"cannot be used: .*fq_none"):
        load()


@needs_native
def test_the_kernels_of_a_name_are_in_use_after_they_were_chosen() -> None:
    with using():
        for name in kernel_names():
            choose_kernels(name)
            assert chosen_kernels() == name


@needs_native
@pytest.mark.parametrize("name", ["", "avx", "neon-dotprod ", "nonsense"])
def test_unknown_kernels_are_refused_and_nothing_changes(name: str) -> None:
    before = chosen_kernels()
    with pytest.raises(ValueError, match=f"kernels {name!r} do not run here; these do: {', '.join(KERNELS)}"):
        choose_kernels(name)
    assert chosen_kernels() == before


@needs_native
def test_threads_are_counted_with_the_calling_one() -> None:
    with using():
        for count in (1, 3, 2, 2, 1):
            set_threads(count)
            assert threads() == count


@needs_native
@pytest.mark.parametrize("count", [0, -1])
def test_without_threads_nothing_is_computed(count: int) -> None:
    before = threads()
    with pytest.raises(ValueError, match=f"{count} threads: at least one is needed"):
        set_threads(count)
    assert threads() == before
