"""llama.cpp's own server, which no wheel has: built from the sources that llama-cpp-python's source package carries."""

import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

_PACKAGE: Final = "llama-cpp-python"
_TARGET: Final = "llama-server"
_SETTINGS: Final = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_NATIVE": "ON",  # for this machine, as llama-cpp-python is built by `make bench`
    "LLAMA_BUILD_SERVER": "ON",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_UI": "OFF",  # pages for browsers: needs node,
    "LLAMA_USE_PREBUILT_UI": "OFF",  # or a download
    "LLAMA_OPENSSL": "OFF",
}


class PeerServerError(Exception):
    """The server cannot be had; the message says why."""


def peer_server(models: Path, python: str, version: str) -> Path:
    """The program, built unless it is there: once, for some eight minutes on two cores.

    Args:
        models: The bench's folder; the sources go to `llama.cpp-VERSION` in it and stay there, the log goes beside.
        python: Interpreter that has pip and cmake.
        version: Of llama-cpp-python.

    Raises:
        PeerServerError: A step has failed.
    """
    folder = models / f"llama.cpp-{version}"
    program = folder / _TARGET
    if program.exists():
        return program
    log_path = models / f"{folder.name}.log"
    sys.stderr.write(f"building {program}, once; this takes minutes, {log_path} tells how far it is\n")
    begun = time.perf_counter()
    with log_path.open("wb") as log:
        try:
            if not folder.exists():
                _unpack(folder, python, version, log)
            _compile(folder, python, log)
        except (subprocess.CalledProcessError, OSError, ValueError, tarfile.TarError) as error:
            raise PeerServerError(f"llama.cpp's server cannot be built; {log_path} tells more: {error}") from error
    sys.stderr.write(f"built in {time.perf_counter() - begun:.0f} s\n")
    (folder / "build" / "bin" / _TARGET).rename(program)  # it is there when it is complete
    return program


def peer_server_version(program: Path) -> str:
    """What the program says about itself, in one line."""
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return "; ".join((told.stdout + told.stderr).strip().splitlines())


def peer_server_command(program: Path, model: Path, *, threads: int, slots: int, context: int) -> list[str]:
    """The server's command line; the port is to be added.

    Its own defaults hold for the rest: continuous batching, cached prompts, keys and values of 16 bits, batches of
    2,048 tokens that are computed by 512.

    Args:
        program: From `peer_server`.
        model: GGUF file.
        threads: For single tokens and for prompts.
        slots: Sequences at a time.
        context: Tokens of each.
    """
    return [
        *(str(program), "--model", str(model), "--threads", str(threads), "--threads-batch", str(threads)),
        *("--parallel", str(slots), "--ctx-size", str(slots * context), "--flash-attn", "on"),
        *("--cache-type-k", "f16", "--cache-type-v", "f16", "--host", "127.0.0.1", "--no-ui"),
    ]


def _unpack(folder: Path, python: str, version: str, log: IO[bytes]) -> None:
    """Download the source package from the index that pip uses; it appears under its name when it is unpacked."""
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    options = ("--no-deps", "--no-binary", _PACKAGE, "--dest", str(unfinished))
    _run([python, "-m", "pip", "download", *options, f"{_PACKAGE}=={version}"], log)
    (package,) = unfinished.iterdir()
    with tarfile.open(package) as archive:
        archive.extractall(unfinished / "unpacked", filter="data")
    (top,) = (unfinished / "unpacked").iterdir()
    top.rename(folder)
    shutil.rmtree(unfinished)


def _compile(folder: Path, python: str, log: IO[bytes]) -> None:
    cmake, build = (python, "-m", "cmake"), str(folder / "build")
    settings = [f"-D{name}={value}" for name, value in _SETTINGS.items()]
    _run([*cmake, "-S", str(folder / "vendor" / "llama.cpp"), "-B", build, *settings], log)
    _run([*cmake, "--build", build, "--target", _TARGET, "--parallel", str(os.cpu_count() or 1)], log)


def _run(command: Sequence[str], log: IO[bytes]) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
