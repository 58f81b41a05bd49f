"""What a person is told when exllamav2's converter fails."""

import os
import subprocess
from pathlib import Path

import pytest

from flexquant.engine.errors import FlexQuantError
from flexquant.engine.parent_process import PARENT, ending_with_us
from flexquant.engine.tokenizer import Tokenizer
from flexquant.ensemble_builder.exllamav2.calibration_rows import CalibrationText
from flexquant.ensemble_builder.exllamav2.conversion_failure import AGAIN, conversion_failure
from flexquant.ensemble_builder.exllamav2.converter import CONVERTER
from support.converting import convert, fault

LOG = Path("converter.log")


@pytest.mark.parametrize(
    ("moment", "kind", "says", "hint"),
    [
        (
            "measure:part 2",
            "memory",
            r"measuring by exllamav2: .* failed: torch\.OutOfMemoryError: CUDA out of memory\. Tried to allocate",
            "memory is too small",
        ),
        ("measure:part 2", "nan", r"failed: Measurement/inference error \(2\): hidden_states \(all", "same command"),
        ("4.0:part 2", "killed", "converting to 4.0 bits: .* failed: it was ended by SIGKILL", "short of memory"),
        (
            "4.0:part 2",
            "leaves",
            "it ended with exit code 0 and its job undone; the last it said was: -- Linear:",
            "same",
        ),
    ],
)
def test_what_the_converter_said_last(
    checkpoint: Path, tmp_path: Path, moment: str, kind: str, says: str, hint: str
) -> None:
    with pytest.raises(FlexQuantError, match=says) as caught:
        convert(checkpoint, tmp_path, faults=fault(tmp_path, moment, kind))
    assert hint in str(caught.value.hint)
    assert caught.value.exit_code == 1
    assert f"{tmp_path}/.work/exllamav2/converter.log)" in caught.value.message


def test_what_the_converter_needs_is_not_installed(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FlexQuantError, match=r"failed: ImportError: .*No module named 'nowhere'") as caught:
        convert(checkpoint, tmp_path, command=(*CONVERTER[:-1], "nowhere.convert"))
    assert 'pip install "flexquant[cuda]"' in str(caught.value.hint)


def test_a_tokenizer_that_finds_far_fewer_tokens(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours is made to find two for one."""
    text = tmp_path / "text.txt"
    text.write_text("x" * 128 * 4)
    encode = Tokenizer.encode

    def twice(self: Tokenizer, text: str, *, special: bool = False, bos: bool) -> list[int]:
        return 2 * encode(self, text, special=special, bos=bos)

    monkeypatch.setattr(Tokenizer, "encode", twice)
    with pytest.raises(
        FlexQuantError, match=r"Not enough sample data in .*; RuntimeError: shape '\[7, 128\]'"
    ) as caught:
        convert(checkpoint, tmp_path / "out", calibration=CalibrationText(text, 10_000))
    assert caught.value.hint == "Give a longer text with --calibration."


def test_of_many_lines_the_last_are_told() -> None:
    lines = [" ## Error: one", " ## Error: two", " -- Layer: x", " ** Error: three", "KeyError: 'q'", "ValueError", ""]
    failure = conversion_failure("converting", lines, 1, LOG)
    assert "failed: Error: two; Error: three; ValueError (all that it said is in converter.log)" in failure.message
    assert failure.hint == AGAIN


@pytest.mark.parametrize(
    ("lines", "exit_code", "says"),
    [
        ([], 0, "the last it said was: nothing"),
        (["  "], 3, "exit code 3"),
        ([" -- Error: no error line of its own"], 1, "was: -- Error: no"),
        ([], -11, "ended by SIGSEGV"),
        ([], -40, "ended by signal 40"),
    ],
)
def test_little_was_said(lines: list[str], exit_code: int, says: str) -> None:
    assert says in conversion_failure("converting", lines, exit_code, LOG).message


def test_a_converter_whose_builder_has_ended_does_not_start() -> None:
    ended = subprocess.run(
        [*CONVERTER[:-1], "this"], env=os.environ | {PARENT: "0"}, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "the process that started this one, 0, has ended already\n"


def test_errors_that_end_it_at_once_are_not_lost_in_a_buffer(tmp_path: Path) -> None:
    (tmp_path / "last_words.py").write_text("import os, sys; print('##', *sys.argv[1:], 'ü'); os._exit(1)")
    ended = subprocess.run(
        [*CONVERTER[:-1], "last_words", "one", "--two"],
        env=ending_with_us(os.environ),
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout.decode(), ended.stderr) == (1, "## one --two ü\n", b"")
