"""Compiles the native kernels of `engine/native/cpp`: into the library of the package, and into their self test.

python native_build.py [--sanitize | --arm]    builds the self test under build/native/ and runs it

`setup.py` builds the library with the functions below, so that both use the same flags. The compiler is `CXX`, or the
machine's own; what it compiles for decides which kernels are built.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent
SOURCES: Final = ROOT / "engine" / "native" / "cpp"
SELF_TEST: Final = ROOT / "tests" / "native" / "selftest.cpp"

# No -march=native: the library runs on other machines too. No -ffast-math, and no contraction into fused operations
# that are not written down: a kernel gives the same bits whatever the compiler.
FLAGS: Final = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-pthread"),
)
SANITIZE: Final = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ARM_COMPILER: Final = "aarch64-linux-gnu-g++"
ARM_EMULATOR: Final = "qemu-aarch64"


class Variant(NamedTuple):
    """Kernels for one instruction set, chosen at run time; only their file is compiled for it."""

    processors: tuple[str, ...]  # first parts of a compiler's target, as in x86_64-linux-gnu
    flags: tuple[str, ...]


X86: Final = ("x86_64", "amd64")
ARM: Final = ("aarch64", "arm64")
AVX512: Final = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma", "-mf16c")
VARIANTS: Final = {
    "kernels_avx512_vbmi.cpp": Variant(X86, (*AVX512, "-mavx512vbmi", "-mgfni")),
    "kernels_avx512.cpp": Variant(X86, AVX512),
    "kernels_avx2.cpp": Variant(X86, ("-mavx2", "-mfma", "-mf16c")),
    "kernels_neon.cpp": Variant(ARM, ("-march=armv8.2-a+dotprod",)),
}


class NativeBuildError(Exception):
    """No compiler, or one that failed; what it printed went to stderr."""


def inputs() -> list[Path]:
    """Everything that the library is made from, for every processor."""
    return [*sorted(SOURCES.glob("*.cpp")), *sorted(SOURCES.glob("*.h")), Path(__file__).resolve()]


def build_library(library: Path, objects: Path) -> None:
    """Compile the kernels into a shared library; object files go to the folder `objects`.

    Raises:
        NativeBuildError: there is no compiler, or compiling failed. `library` is left as it was.
    """
    compiler = _compiler()
    compiled = _compile(compiler, _kernels(compiler), objects, ())
    library.parent.mkdir(parents=True, exist_ok=True)
    linked = library.with_suffix(".new")
    _run([*compiler, "-shared", *map(str, compiled), "-o", str(linked), "-pthread", *_from_environment("LDFLAGS")])
    # A new file, never new contents in the old one: a running process may have that mapped.
    linked.replace(library)


def build_self_test(program: Path, objects: Path, extra: Sequence[str] = ()) -> None:
    """Compile the kernels and their self test into a program; `extra` flags come last and so win.

    Raises:
        NativeBuildError: there is no compiler, or compiling failed.
    """
    compiler = _compiler()
    compiled = _compile(compiler, [*_kernels(compiler), SELF_TEST], objects, extra)
    _run([*compiler, *extra, *map(str, compiled), "-o", str(program), "-pthread", *_from_environment("LDFLAGS")])


def _compiler() -> list[str]:
    """The start of a compiler's command line."""
    if chosen := _from_environment("CXX"):
        return chosen
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise NativeBuildError("there is no C++ compiler: none of c++, g++ and clang++ is on PATH, and CXX is not set")


def _kernels(compiler: Sequence[str]) -> list[Path]:
    """The sources for the processor that the compiler compiles for."""
    processor = _run([*compiler, "-dumpmachine"]).partition("-")[0]
    sources = sorted(SOURCES.glob("*.cpp"))
    return [path for path in sources if path.name not in VARIANTS or processor in VARIANTS[path.name].processors]


def _compile(compiler: Sequence[str], sources: Iterable[Path], objects: Path, extra: Sequence[str]) -> list[Path]:
    """Compile each source with the flags of its file; returns the object files in the order of the sources."""
    objects.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        compiled = objects / f"{source.stem}.o"
        variant = VARIANTS[source.name].flags if source.name in VARIANTS else ()
        flags = [*FLAGS, *_from_environment("CXXFLAGS"), *variant, *extra, f"-I{SOURCES}"]
        _run([*compiler, *flags, "-c", str(source), "-o", str(compiled)])
        return compiled

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def _run(command: Sequence[str]) -> str:
    """Run a command, pass on what it prints to stderr, and return what it prints to stdout."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise NativeBuildError(f"{command[0]} cannot be run: {error.strerror}") from error
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise NativeBuildError(f"exit code {done.returncode} from: {shlex.join(command)}")
    return done.stdout


def _from_environment(variable: str) -> list[str]:
    return shlex.split(os.environ.get(variable, ""))


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and run the self test; returns the exit code."""
    parser = argparse.ArgumentParser(description="Build the self test of the native kernels and run it.")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--sanitize", action="store_true", help="with the address and undefined behaviour sanitizers")
    kind.add_argument("--arm", action="store_true", help="cross-compiled for 64-bit ARM, under an emulator")
    given = parser.parse_args(arguments)
    folder = ROOT / "build" / "native" / ("sanitize" if given.sanitize else "arm" if given.arm else "plain")
    program = folder / "selftest"
    command = [str(program)]
    if given.arm:
        missing = [tool for tool in (ARM_COMPILER, ARM_EMULATOR) if shutil.which(tool) is None]
        if missing:
            sys.stderr.write(
                f"{' and '.join(missing)} not found.\nInstall Debian's packages g++-aarch64-linux-gnu and qemu-user.\n"
            )
            return 1
        os.environ["CXX"] = ARM_COMPILER
        command = [ARM_EMULATOR, "-L", "/usr/aarch64-linux-gnu", *command]
    try:
        build_self_test(program, folder, SANITIZE if given.sanitize else ())
    except NativeBuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
