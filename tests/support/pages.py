"""The pages of this repository, read as far as tests need it: fenced blocks, headings, links."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SHELL: Final = ("console", "sh")
PROGRAMS: Final = (*SHELL, "python", "javascript")
"""Languages of blocks that a reader would run."""

_FENCE: Final = re.compile(r"^( *)```(\w*)\s*$")
_COMMENT: Final = re.compile(r"^\s*<!--\s*(.*?)\s*-->\s*$")
_LINK: Final = re.compile(r"\]\(([^()\s]+)\)|\b(?:src|srcset|href)=\"([^\"]+)\"")
_CODE: Final = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Args:
        line: Of its opening fence, from 1 on.
        language: Behind the fence; may be empty.
        text: What it holds, without the fence's indentation.
        mark: The comment in the line above it; empty without one.
    """

    line: int
    language: str
    text: str
    mark: str

    @property
    def commands(self) -> list[str]:
        """What is typed: behind `$ ` with the lines that a backslash continues, or all of a script."""
        if self.language == "sh":
            return [self.text]
        found: list[str] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append(line.removeprefix("$ "))
            elif found and found[-1].endswith("\\"):
                found[-1] += f"\n{line}"
        return found


@dataclass(frozen=True, slots=True)
class Page:
    """A page in Markdown.

    Args:
        path: Of its file.
        blocks: Its fenced blocks.
        prose: Its text without them; every line is where it was.
    """

    path: Path
    blocks: tuple[Block, ...]
    prose: str

    @property
    def name(self) -> str:
        """Its path below the repository's root."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def comments(self) -> list[str]:
        """Comments on lines of their own, outside blocks."""
        return [found[1] for line in self.prose.splitlines() if (found := _COMMENT.match(line))]

    @property
    def links(self) -> list[str]:
        """Targets of links and pictures, as they stand there."""
        return [markdown or html for markdown, html in _LINK.findall(_CODE.sub("", self.prose))]

    @property
    def code(self) -> list[str]:
        """What stands between backticks."""
        return [" ".join(found.split()) for found in _CODE.findall(self.prose)]

    @property
    def anchors(self) -> set[str]:
        """What a link may name behind `#`, as GitHub makes it from headings."""
        found: set[str] = set()
        for heading in re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE):
            shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
            plain = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
            number = next(n for n in range(1000) if (f"{plain}-{n}" if n else plain) not in found)
            found.add(f"{plain}-{number}" if number else plain)
        return found


@cache
def read(path: Path) -> Page:
    """Read a page.

    Raises:
        AssertionError: A fence is not closed.
    """
    blocks: list[Block] = []
    prose: list[str] = []
    opened: tuple[int, str, str, str] | None = None  # line, indentation, language, mark
    inside: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence is None:
            prose.append(line)
            continue
        if opened is None and fence is not None:
            comment = _COMMENT.match(prose[-1]) if prose else None
            opened, inside = (number, fence[1], fence[2], comment[1] if comment else ""), []
        elif opened is not None and fence is not None and not fence[2]:
            blocks.append(Block(opened[0], opened[2], "".join(f"{held}\n" for held in inside), opened[3]))
            opened = None
        elif opened is not None:
            inside.append(line.removeprefix(opened[1]))
        prose.append("")
    assert opened is None, f"{path}: the fence of line {opened and opened[0]} is not closed"
    return Page(path, tuple(blocks), "\n".join(prose))


def pages() -> list[Page]:
    """README, the other pages at the root, and everything below docs/."""
    paths = [*ROOT.glob("*.md"), ROOT / "bench" / "RESULTS.md", *(ROOT / "docs").rglob("*.md")]
    return [read(path) for path in sorted(paths)]
