"""Loads exllamav2's extension module, where its kernels are; compiles it first where it was installed without."""

import contextlib
import importlib.util
import logging
import sys
from importlib import metadata
from typing import Any

import torch

from flexquant.engine.errors import UsageError
from flexquant.engine.exllamav2.version import VERSION

log = logging.getLogger(__name__)


def load_extension() -> Any:
    """The extension module; compiled now, which takes minutes, where it was installed without.

    exllamav2 sets torch's thread count for the whole process when it is imported; that is taken back.

    Raises:
        UsageError: It is not installed, is of another version, or cannot be compiled or loaded here.
    """
    if not torch.cuda.is_available():
        raise UsageError("no CUDA device is there for torch to use", hint="Serve with --device cpu.")
    installed = _installed_version()
    if installed != VERSION:
        raise UsageError(
            f"exllamav2 {VERSION} is needed, and {installed or 'none'} is installed",
            hint='Install it with: pip install "flexquant[cuda]". Or serve with --device cpu.',
        )
    threads = torch.get_num_threads()
    try:
        if importlib.util.find_spec("exllamav2_ext") is None:
            log.info("compiling exllamav2's kernels, unless that was done before; it takes minutes")
        with contextlib.redirect_stdout(sys.stderr):  # where it shows its progress
            return importlib.import_module("exllamav2.ext").ext_c
    except ModuleNotFoundError as error:
        raise UsageError(
            f"exllamav2 cannot be used: {error}",
            hint='Install what it needs with: pip install "flexquant[cuda]". Or serve with --device cpu.',
        ) from error
    except Exception as error:  # compilers, linkers and loaders fail in many ways
        raise UsageError(
            f"exllamav2's kernels cannot be compiled or loaded: {error}",
            hint="`flexquant doctor` says what is missing. Or serve with --device cpu.",
        ) from error
    finally:
        torch.set_num_threads(threads)


def _installed_version() -> str | None:
    try:
        return metadata.version("exllamav2")
    except metadata.PackageNotFoundError:
        return None
