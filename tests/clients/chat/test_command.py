"""flexquant-chat where there is no terminal, and what it keeps."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from flexquant.clients import Client
from flexquant.clients.chat import command
from flexquant.clients.chat.history import history_path, prepare
from support.daemon import clean_environment


def _connect(respond: Callable[[httpx.Request], httpx.Response]) -> Callable[[str | None], Client]:
    return lambda url: Client(url, transport=httpx.MockTransport(respond))


def _answers(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/v1/chat/completions":
        body = {"error": {"message": "none", "type": "t", "param": None, "code": "no_chat_template"}}
        return httpx.Response(400, json=body)
    return httpx.Response(
        200, text='data: {"choices": [{"text": " a list", "finish_reason": "stop"}]}\n\ndata: [DONE]\n'
    )


def test_what_is_piped_in_is_one_message_and_stdout_is_its_answer_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("The function returns\n"))
    assert command.main(["--seed", "1"], _connect(_answers)) == 0
    out, err = capsys.readouterr()
    assert out == " a list\n"
    assert err == "flexquant-chat: this model has no chat template: what you write is text that it continues\n"


def test_nothing_piped_in_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    with pytest.raises(SystemExit) as caught:
        command.main([], _connect(_answers))
    assert caught.value.code == 2
    assert "no message on stdin" in capsys.readouterr().err


def test_no_daemon_is_told_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello"))
    assert command.main(["--url", "http://127.0.0.1:9"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "no daemon answers" in err
    assert "hint: " in err


def test_history_is_in_the_state_folder_and_its_owner_s_alone(tmp_path: Path) -> None:
    path = history_path({"XDG_STATE_HOME": str(tmp_path / "state")})
    assert path == tmp_path / "state" / "flexquant" / "chat_history"
    assert history_path({"XDG_STATE_HOME": "relative"}) == Path.home() / ".local" / "state" / "flexquant" / path.name
    prepare(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.write_text("kept")
    path.chmod(0o644)
    prepare(path)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("kept", 0o600)


LAZY = """
import sys
import flexquant.clients.top.command, flexquant.clients.chat.command
drawing = {"flexquant.clients.top.frame", "prompt_toolkit"}  # not rich: httpx imports it for a command of its own
assert not drawing & set(sys.modules), drawing & set(sys.modules)
import flexquant.clients.top.screen, flexquant.clients.chat.prompt
assert drawing <= set(sys.modules)
"""


def test_what_draws_is_imported_only_where_something_is_drawn() -> None:
    ended = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, env=clean_environment())
    assert ended.returncode == 0, ended.stderr
