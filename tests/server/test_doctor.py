"""flexquant-doctor: what this machine has, and dumps that are whole or not there."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from flexquant.clients import Client
from flexquant.engine.errors import InputError
from flexquant.engine.native.library import NativeUnavailableError
from flexquant.server.controller.sample import MemoryReading, StressReading
from flexquant.server.doctor import command, kernels
from flexquant.server.doctor.dump import write_dump
from flexquant.server.doctor.memory import memory_sources
from flexquant.server.monitor import Monitor

LINES = ['{"flexquant_trace":1,"kind":"dump"}', '{"now":1}']


class Source:
    """A probe that says what the test wants."""

    def __init__(self, name: str, *readings: MemoryReading | StressReading, error: str | None = None) -> None:
        self.name = name
        self._readings = readings
        self._error = error

    def read(self) -> Sequence[MemoryReading | StressReading]:
        if self._error is not None:
            raise OSError(self._error)
        return self._readings


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FLEXQUANT_")]:
        monkeypatch.delenv(name)


def _connect(answer: httpx.Response, seen: list[httpx.Request] | None = None) -> command.Connect:
    def respond(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        return answer

    return lambda url, key: Client(url, api_key=key, transport=httpx.MockTransport(respond))


def test_every_source_is_listed_with_what_it_reads() -> None:
    monitor = Monitor(
        [
            Source("host", MemoryReading("host", 5 << 30, 16 << 30)),
            Source("budget", MemoryReading("budget", 1 << 20, 2 << 20, shared=False)),
            Source("psi", StressReading("psi", some_us=12, some_avg10=0.5)),
            Source("cgroup", error="gone"),
            Source("quiet"),
        ]
    )
    section = memory_sources(monitor)
    text = section.text()
    for part in (
        "5120 MiB available of 16384",
        "1 MiB available of 2, this daemon's alone",
        "stress: some_us 12, some_avg10 0.5",
        "does not answer: OSError: gone",
        "nothing to read now",
    ):
        assert part in text
    assert section.facts["sources"]["psi"] == {"stress": {"source": "psi", "some_us": 12, "some_avg10": 0.5}}
    assert section.facts["sources"]["cgroup"] == {"error": "OSError: gone"}


def test_kernels_are_native_or_torch_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "kernel_names", lambda: ["avx2", "portable"])
    assert "native, avx2 (also portable)" in kernels.kernels().text()

    def missing() -> list[str]:
        raise NativeUnavailableError("no library")

    monkeypatch.setattr(kernels, "kernel_names", missing)
    assert "torch, many times slower: no library" in kernels.kernels().text()
    assert kernels.kernels().facts["kernels"] == "torch"


def test_this_machine_is_shown_without_a_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("memory\n")
    assert "host" in out
    assert "\ncompute\n" in out
    assert command.main(["--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["memory"]["sources"]["host"]["memory"]["total"] > 0
    assert facts["compute"]["cores"] >= 1
    assert facts["dump"] is None


def test_settings_in_the_environment_count(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FLEXQUANT_MEMORY_BUDGET", "2G")
    assert command.main([]) == 0
    assert "of 2048, this daemon's alone" in capsys.readouterr().out
    monkeypatch.setenv("FLEXQUANT_MEMORY_BUDGET", "lots")
    assert command.main([]) == 2
    assert "memory_budget" in capsys.readouterr().err


def test_a_dump_is_fetched_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, seen = tmp_path / "dump.jsonl", list[httpx.Request]()
    answer = httpx.Response(200, text="\n".join(LINES) + "\n")
    assert command.main(["--dump", str(path), "--api-key", "secret"], _connect(answer, seen)) == 0
    assert path.read_text(encoding="utf-8").splitlines() == LINES
    assert path.stat().st_mode & 0o777 == 0o644
    assert "2 lines" in capsys.readouterr().out
    assert [(request.url.path, request.headers["authorization"]) for request in seen] == [
        ("/v1/elastic/trace", "Bearer secret")
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(200, text=""), "empty trace"),
        (httpx.Response(200, text="<html>"), "no trace"),
        (httpx.Response(401, json={"error": {"message": "A valid API key is needed"}}), "A valid API key is needed"),
        (httpx.Response(404, json={"error": {"message": "no such path"}}), "no such path"),
    ],
)
def test_what_is_no_dump_leaves_the_old_file(
    answer: httpx.Response, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "dump.jsonl"
    path.write_text("old", encoding="utf-8")
    assert command.main(["--dump", str(path)], _connect(answer)) != 0
    assert said in capsys.readouterr().err
    assert [found.name for found in tmp_path.iterdir()] == ["dump.jsonl"]
    assert path.read_text(encoding="utf-8") == "old"


def test_a_connection_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    def lines() -> Iterator[str]:
        yield LINES[0]
        raise ConnectionResetError("gone")

    with pytest.raises(InputError):
        write_dump(lines(), tmp_path / "dump.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_does_not_exist_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none" / "dump.jsonl"
    assert command.main(["--dump", str(path)], _connect(httpx.Response(200, text=LINES[0]))) == 3
    assert f"{path}: cannot be written: No such file" in capsys.readouterr().err


def test_no_daemon_is_told_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--dump", str(tmp_path / "x"), "--url", "http://127.0.0.1:9"]) == 1
    err = capsys.readouterr().err
    assert "flexquant-doctor: http://127.0.0.1:9: no daemon answers" in err
    assert "hint: " in err
