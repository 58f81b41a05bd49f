"""Pages by the tokens that lead to them: what sequences that begin alike can share. Knows nothing of memory.

A tree: every node is one full page of tokens behind its parent's, so a page's keys and values depend on nothing but
the path to it (as SGLang's RadixAttention keeps them, Zheng et al., arXiv 2312.07104, here by whole pages).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

PAGE_TOKENS: Final = 64

Page = TypeVar("Page")
_Key = tuple[int, bytes]
_ROOT: Final = 0


@dataclass(eq=False, slots=True)
class _Node(Generic[Page]):
    number: int
    key: _Key
    """The parent's number and the page's tokens."""
    page: Page
    parent: "_Node[Page] | None"
    children: int = 0


class PrefixCache(Generic[Page]):
    """Least recently used pages go first, and a page never before those behind it. One thread uses it."""

    def __init__(self) -> None:
        # Ordered by use, the oldest first. A path is touched from its end to its start, so children are older than
        # their parents.
        self._nodes: OrderedDict[_Key, _Node[Page]] = OrderedDict()
        self._numbers = _ROOT

    def __len__(self) -> int:
        return len(self._nodes)

    def pages(self) -> Iterator[Page]:
        """All pages."""
        return (node.page for node in self._nodes.values())

    def match(self, tokens: npt.ArrayLike, usable: Callable[[Page], bool]) -> list[Page]:
        """The pages that hold the beginning of `tokens`, up to the first that is not there or not usable."""
        path = self._path(tokens, usable)
        self._touch(path)
        return [node.page for node in path]

    def find(self, tokens: npt.ArrayLike, usable: Callable[[Page], bool]) -> list[Page]:
        """What `match` would return, without counting as a use."""
        return [node.page for node in self._path(tokens, usable)]

    def insert(
        self, tokens: npt.ArrayLike, pages: Sequence[Page], replaces: Callable[[Page, Page], bool]
    ) -> list[tuple[Page, Page | None]]:
        """Add pages that hold the beginning of `tokens`.

        Args:
            tokens: Token ids; what fills no page is left out.
            pages: As many as `tokens` fills, or more.
            replaces: Whether a new page takes the place of one that is there for the same tokens.

        Returns:
            Pages that are in the cache now and were not before, each with the one whose place it took, if any.
        """
        added: list[tuple[Page, Page | None]] = []
        path: list[_Node[Page]] = []
        for part, page in zip(_full_pages(tokens), pages, strict=False):
            parent = path[-1] if path else None
            key = (parent.number if parent else _ROOT, part)
            node = self._nodes.get(key)
            if node is None:
                self._numbers += 1
                node = self._nodes[key] = _Node(self._numbers, key, page, parent)
                if parent is not None:
                    parent.children += 1
                added.append((page, None))
            elif node.page is not page and replaces(page, node.page):
                added.append((page, node.page))
                node.page = page
            path.append(node)
        self._touch(path)
        return added

    def evict(self, count: int, removable: Callable[[Page], bool]) -> list[Page]:
        """Take out removable pages, up to `count`, the least recently used first.

        A page leaves only with all that lie behind it. So the others of these are in the result, too, once there are
        no more removable pages without such.
        """
        evicted: list[Page] = []
        for also_others in (False, True):
            for node in list(self._nodes.values()):  # children come before their parents
                if count <= 0 or (also_others and not any(removable(page) for page in self.pages())):
                    return evicted
                if node.children or not (also_others or removable(node.page)):
                    continue
                del self._nodes[node.key]
                if node.parent is not None:
                    node.parent.children -= 1
                evicted.append(node.page)
                count -= removable(node.page)
        return evicted

    def _path(self, tokens: npt.ArrayLike, usable: Callable[[Page], bool]) -> list[_Node[Page]]:
        path: list[_Node[Page]] = []
        number = _ROOT
        for part in _full_pages(tokens):
            node = self._nodes.get((number, part))
            if node is None or not usable(node.page):
                break
            path.append(node)
            number = node.number
        return path

    def _touch(self, path: Sequence[_Node[Page]]) -> None:
        for node in reversed(path):
            self._nodes.move_to_end(node.key)


def _full_pages(tokens: npt.ArrayLike) -> Iterator[bytes]:
    """The tokens of every page that they fill."""
    ids = np.asarray(tokens, np.int64)
    for start in range(0, len(ids) - PAGE_TOKENS + 1, PAGE_TOKENS):
        yield ids[start : start + PAGE_TOKENS].tobytes()
