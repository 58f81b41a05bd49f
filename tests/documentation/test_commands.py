"""Commands in the pages: each is run, or says why not, and has no flag that does not exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.generate.commands import commands
from support.pages import PROGRAMS, ROOT, SHELL, Page, pages, read
from support.reader import is_run

PAGES = pages()


def flags() -> dict[tuple[str, ...], set[str]]:
    return {command.words: command.flags for command in commands()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_run_or_says_why_not(page: Page) -> None:
    for block in page.blocks:
        where = f"{page.name}:{block.line}"
        assert block.language, f"{where}: say what it is: console for commands, text for what is only shown"
        assert block.language not in ("bash", "shell"), f"{where}: commands are `console`, scripts are `sh`"
        if block.language == "console":
            assert block.commands, f"{where}: commands stand behind `$ `"
        if block.mark.startswith("not run:"):
            assert block.language in PROGRAMS, f"{where}: this would not be run anyway"
            assert len(block.mark) > len("not run: "), f"{where}: why not?"
    for mark in [*page.comments, *(block.mark for block in page.blocks)]:
        if found := re.fullmatch(r"(?:blocks )?run by (\S+)", mark):
            assert page.path.name in (ROOT / found[1]).read_text(), f"{page.name}: {found[1]} does not name it"
        elif re.match(r"(not )?run\b|blocks\b", mark):
            assert mark.startswith("not run: "), f"{page.name}: {mark!r} means nothing"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_no_indented_text(page: Page) -> None:
    """Markdown takes that for code, too, but the tests do not see it."""
    programs = r"(?:\$ |flexquant|make |python|curl |pip |docker )"
    assert not re.findall(rf"\n\n {{4}}{programs}.*", page.prose)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_of_our_commands_exists(page: Page) -> None:
    for text in [*page.code, *(text for block in page.blocks if block.language in SHELL for text in block.commands)]:
        for words in _our_commands(text):
            if words[0] == text and (words[0],) not in flags():
                continue  # a name by itself, of something else
            known = max((known for known in flags() if words[: len(known)] == list(known)), key=len, default=None)
            assert known is not None, f"{text}: there is no such command"
            given = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
            assert given <= flags()[known] | {"--help", "--version"}, text


def _our_commands(text: str) -> Iterator[list[str]]:
    """The commands of this package in a line of shell, with hyphenated names and without folders."""
    for part in re.split(r"\||&&|;|\n(?!\s)", text.replace("\\\n", " ")):
        if not re.match(r"(?:\S*bin/)?flexquant(?:-[a-z]+)?(?:$|\s)", part.strip()):
            continue
        first, *words = shlex.split(part, comments=True)
        name = Path(first).name
        if name == "flexquant" and words and re.fullmatch(r"[a-z]+", words[0]):
            name = f"flexquant-{words.pop(0)}"
        yield [name, *words]


def test_blocks_and_marks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    shell = "```console\n$ one \\\n    two\nshown\n$ three\n```"
    path.write_text(f"<!-- not run: it takes hours -->\n{shell}\n\n- so:\n\n  ```sh\n  four\n  ```\n")
    first, second = read(path).blocks
    assert (first.mark, first.commands) == ("not run: it takes hours", ["one \\\n    two", "three"])
    assert (second.mark, second.commands) == ("", ["four\n"])
    assert [is_run(read(path), block) for block in (first, second)] == [False, True]


def test_a_wrong_flag_is_seen() -> None:
    assert list(_our_commands(".venv/bin/flexquant pin 3 --ttl 5 && flexquant-serve --model demo")) == [
        ["flexquant-pin", "3", "--ttl", "5"],
        ["flexquant-serve", "--model", "demo"],
    ]
    assert "--ttl" in flags()["flexquant-pin",]
    assert "--ttl" not in flags()["flexquant-serve",]
    assert "--text" in flags()["flexquant-build", "eval"]
