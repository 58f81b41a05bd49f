"""What the system lends that makes weights faster to read, and what could build the kernels."""

import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Final

from flexquant.server.doctor.section import Section

HUGE_PAGES: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
COMPILERS: Final = ("c++", "g++", "clang++")
_CHOSEN: Final = re.compile(r"\[(\w+)\]")


def system(huge_pages: Path = HUGE_PAGES) -> Section:
    """Huge pages and a compiler.

    Args:
        huge_pages: Where Linux says who gets them.
    """
    mode = _mode(huge_pages)
    named = shlex.split(os.environ.get("CXX", ""))[:1] or COMPILERS
    compiler = next((found for name in named if (found := shutil.which(name))), None)
    pages = {
        "always": "for all memory",
        "madvise": "for programs that ask, as this one does",
        "never": "none",
        None: "not known here",
    }
    findings = (
        ("huge pages", pages.get(mode, str(mode))),
        ("C++ compiler", compiler or "none; only needed to build the kernels when FlexQuant is installed"),
    )
    return Section("system", findings, {"huge_pages": mode, "compiler": compiler})


def _mode(path: Path) -> str | None:
    try:
        found = _CHOSEN.search(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return found[1] if found else None
