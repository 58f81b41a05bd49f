"""flexquant-top where there is no terminal."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flexquant.clients import Client
from flexquant.clients.top import command
from support import told
from support.daemon import clean_environment

TESTS = Path(__file__).parents[2]


def _connect(url: str | None) -> Client:
    return Client(url, transport=httpx.MockTransport(told.answer))


def test_once_is_the_picture_without_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--once"], _connect) == 0
    out = capsys.readouterr().out
    assert "position   3 of 10\n" in out
    assert "q quit" not in out
    assert "\x1b" not in out


def test_once_as_json_is_one_object_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--once", "--json"], _connect) == 0
    [line] = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["model"], found["elastic"], found["problem"]) == ("my-llama", told.STATE, None)
    assert found["load"]["generated_tokens"] == 100


@pytest.mark.parametrize("arguments", [["--interval", "0"], ["--interval", "x"], ["--interval", "inf"]])
def test_an_interval_is_a_time(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments, _connect)
    assert caught.value.code == 2


def test_no_daemon_is_told_without_a_traceback() -> None:
    for arguments in (["--once"], ["--json"], []):
        ended = subprocess.run(
            [sys.executable, "-m", "flexquant.clients.top", "--url", "http://127.0.0.1:9", *arguments],
            capture_output=True,
            text=True,
            env=clean_environment(),
        )
        assert ended.returncode == 1
        assert ended.stdout == ""
        assert ended.stderr.startswith("flexquant-top: http://127.0.0.1:9: no daemon answers")
        assert "\nhint: " in ended.stderr


def test_a_reader_that_has_seen_enough_ends_it_quietly() -> None:
    program = (
        f"import sys, httpx; sys.path.insert(0, {str(TESTS)!r})\n"
        "from support import told\n"
        "from flexquant.clients import Client\n"
        "from flexquant.clients.top import command\n"
        "connect = lambda url: Client(url, transport=httpx.MockTransport(told.answer))\n"
        "sys.exit(command.main(['--json', '--interval', '0.1'], connect))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["model"] == "my-llama"
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr.read() == b""
    process.stderr.close()
