"""The program of llama.cpp that is built once: found again, and told about when it cannot be had."""

import shutil
from pathlib import Path

import pytest

from bench.peer_server import PeerServerError, peer_server, peer_server_command


def test_a_program_that_is_there_is_not_built_again(tmp_path: Path) -> None:
    program = tmp_path / "llama.cpp-1.2.3" / "llama-server"
    program.parent.mkdir()
    program.touch()
    assert peer_server(tmp_path, "/no/such/python", "1.2.3") == program


@pytest.mark.parametrize("python", [shutil.which("false"), "/no/such/python"])
def test_a_step_that_fails_is_told_with_its_log(tmp_path: Path, python: str) -> None:
    with pytest.raises(PeerServerError, match=r"llama\.cpp-1\.2\.3\.log"):
        peer_server(tmp_path, python, "1.2.3")
    assert not (tmp_path / "llama.cpp-1.2.3").exists()


def test_slots_share_a_context_that_gives_each_its_own(tmp_path: Path) -> None:
    command = peer_server_command(tmp_path / "program", tmp_path / "model", threads=2, slots=4, context=4096)
    flags = dict(zip(command[1::2], command[2::2], strict=False))
    assert (flags["--parallel"], flags["--ctx-size"], flags["--threads"]) == ("4", "16384", "2")
