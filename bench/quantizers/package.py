"""Packages that only this bench needs."""

import importlib
from typing import Any

from flexquant.engine.errors import FlexQuantError


def package(name: str) -> Any:
    """Import a package.

    Raises:
        FlexQuantError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise FlexQuantError(
            f"the package {name} is missing", hint="`make bench ARGS=--help` installs what the bench needs."
        ) from error
