"""flexquant-status, flexquant-pin, and the umbrella command."""

import json
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import httpx
import pytest

from flexquant.clients import Client, pin, status, umbrella
from support.told import STATE


def _connect(state: dict[str, Any], sent: list[dict[str, Any]] | None = None) -> Callable[[str | None], Client]:
    def answer(request: httpx.Request) -> httpx.Response:
        if sent is not None:
            sent.append(json.loads(request.content))
        return httpx.Response(200, json=state)

    return lambda url: Client(url, transport=httpx.MockTransport(answer))


def test_status_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([], _connect(STATE)) == 0
    out = capsys.readouterr().out
    assert "3 of 10 (auto)" in out
    assert "700.0 MiB (from 400.0 MiB to 3.0 GiB)" in out
    assert "perplexity 14.900, KL 0.01000" in out
    assert "5.0 GiB available, pressure none" in out


def test_status_shows_what_is_unusual(capsys: pytest.CaptureFixture[str]) -> None:
    unusual = {
        "target": 6,
        "mode": "pinned",
        "pinned_position": 2,
        "worst_position": 8,
        "ttl_seconds": 30.0,
        "override": "critical",
        "available_bytes": None,
        "refusing": "host: 3 MiB available",
        "retained_bytes": 5 << 20,
        "last_decision": {"what": "critical", "why": "host: low", "when": 5e8, "from_position": 2, "to_position": 6},
        "sources": [
            {"name": "host", "available_bytes": None, "total_bytes": None, "error": "OSError: gone", "reserves": None}
        ],
    }
    assert status.main([], _connect({**STATE, **unusual})) == 0
    out = capsys.readouterr().out
    for part in (
        "moving to 6",
        "pinned to 2 for 30 s",
        "overridden: critical",
        "never beyond 8",
        "unknown available",
        "host does not answer: OSError: gone",
        "refusing   new requests: host: 3 MiB",
        "retained   5.0 MiB",
        "critical: 2 to 6",
        "host: low",
    ):
        assert part in out


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["--json"], _connect(STATE)) == 0
    assert json.loads(capsys.readouterr().out) == STATE


def test_no_daemon_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["--url", "http://127.0.0.1:9"]) == 1
    err = capsys.readouterr().err
    assert "flexquant-status: http://127.0.0.1:9: no daemon answers" in err
    assert "hint: " in err


@pytest.mark.parametrize(
    ("arguments", "wish"),
    [
        (["4"], {"position": 4}),
        (["0", "--ttl", "60"], {"position": 0, "ttl_seconds": 60.0}),
        (["--bytes", "2G"], {"bytes": 2 << 30}),
        (["--bytes", "1.5MB"], {"bytes": 1_500_000}),
        (["--auto"], {"mode": "auto"}),
        (["--worst", "7"], {"worst_position": 7}),
    ],
)
def test_pin_sends_the_wish(arguments: list[str], wish: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    sent: list[dict[str, Any]] = []
    assert pin.main(arguments, _connect(STATE, sent)) == 0
    assert sent == [wish]
    assert "3 of 10" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["4", "--auto"], ["--bytes", "many"], ["x"], ["4", "--ttl", "nan"], ["4", "--ttl", "0"]]
)
def test_pin_refuses_what_it_cannot_mean(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        pin.main(arguments, _connect(STATE))
    assert caught.value.code == 2


def test_pin_tells_why_the_daemon_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    envelope = {"error": {"message": "position 99 is out of range", "type": "t", "param": None, "code": None}}
    transport = httpx.MockTransport(lambda _: httpx.Response(400, json=envelope))
    assert pin.main(["99"], lambda url: Client(url, transport=transport)) == 1
    assert capsys.readouterr().err == "flexquant-pin: position 99 is out of range\n"


# --- the umbrella ----------------------------------------------------------------------------------------------


def _scripts() -> list[EntryPoint]:
    here = "support.echo_command:main"
    return [
        EntryPoint("flexquant", here, "console_scripts"),
        EntryPoint("flexquant-echo", here, "console_scripts"),
        EntryPoint("unrelated", here, "console_scripts"),
    ]


def test_the_umbrella_runs_a_subcommand(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["flexquant", "echo", "--loud", "7"])
    assert umbrella.main(scripts=_scripts) == 7
    assert capsys.readouterr().out == "flexquant-echo --loud 7\n"


def test_the_umbrella_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert umbrella.main(["--help"], _scripts) == 0
    out = capsys.readouterr().out
    assert "\n  echo\n" in out
    assert "unrelated" not in out


def test_an_unknown_subcommand_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert umbrella.main(["nonsense"], _scripts) == 2
    assert umbrella.main([], _scripts) == 2
    err = capsys.readouterr().err
    assert "'nonsense'" in err
    assert "echo" in err


def test_the_umbrella_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert umbrella.main(["--version"], _scripts) == 0
    assert capsys.readouterr().out.startswith("flexquant 0.")


def test_the_scripts_of_the_package_can_be_called() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ours = {name: value for name, value in project["scripts"].items() if value.startswith("flexquant.clients")}
    assert set(ours) == {"flexquant", "flexquant-chat", "flexquant-pin", "flexquant-status", "flexquant-top"}
    assert all(callable(EntryPoint(name, value, "console_scripts").load()) for name, value in ours.items())
