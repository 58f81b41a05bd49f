"""Pages are written by hand, but for blocks between two comments:

<!-- generated NAME -->
...
<!-- /generated NAME -->
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from docs.generate import commands, manifest, metrics, settings

FOLDER: Final = Path(__file__).parents[1]
BLOCKS: Final[Mapping[str, Callable[[], str]]] = {
    "commands": commands.text,
    "manifest": manifest.text,
    "metrics": metrics.text,
    "settings": settings.text,
}
_BLOCK: Final = re.compile(r"(<!-- generated (\w+) -->\n).*?(<!-- /generated \2 -->)", re.DOTALL)


def pages() -> list[Path]:
    """All pages that have a generated block."""
    return [path for path in sorted(FOLDER.rglob("*.md")) if _BLOCK.search(path.read_text(encoding="utf-8"))]


def renewed(page: str) -> str:
    """The page with its blocks as the code has them now.

    Raises:
        KeyError: There is no block of that name.
    """
    return _BLOCK.sub(lambda found: f"{found[1]}{BLOCKS[found[2]]().strip()}\n{found[3]}", page)
