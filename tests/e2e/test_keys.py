"""A daemon with keys: who may do what, and that neither keys nor prompts get anywhere."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flexquant.server.doctor.command import main as doctor
from support.daemon import clean_environment, running_daemon

pytestmark = pytest.mark.e2e

KEYS = {"plain": "key-of-all-9f31", "line": "key-of-a-file-77aa", "admin": "key-of-the-admin-c0de"}
PROMPT = "a very private matter"
BODY: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 1}
TARGET = "/v1/elastic/target"


def pin(url: str, key: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from flexquant.clients.pin import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--url", url, "1"]
    environment = clean_environment({"FLEXQUANT_API_KEY": key})
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_keys_open_what_they_should_and_appear_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# mine\n{KEYS['line']}\n")
    path.chmod(0o644)
    environment = {"FLEXQUANT_ADMIN_KEY": KEYS["admin"]}
    flags = (f"--api-key={KEYS['plain']}", f"--api-key-file={path}", "--log-level=debug")
    with running_daemon(tmp_path, *flags, environment=environment) as daemon:
        sent = {name: {"authorization": f"Bearer {key}"} for name, key in (*KEYS.items(), ("wrong", "key-of-nobody-1"))}
        for name, headers in sent.items():
            answer = daemon.post("/v1/completions", BODY, headers=headers)
            assert answer.status_code == (401 if name == "wrong" else 200), name
            moved = daemon.post(TARGET, {"mode": "auto"}, headers=headers)
            assert moved.status_code == {"wrong": 401, "admin": 200}.get(name, 403), name
        for closed in ("/metrics", "/v1/elastic/trace", "/v1/elastic/events", "/openapi.json"):
            assert daemon.get(closed).status_code == 401
        assert daemon.get("/health").status_code == daemon.get("/ready").status_code == 200

        refused, done = pin(daemon.url, KEYS["plain"]), pin(daemon.url, KEYS["admin"])
        assert refused.returncode != 0
        assert "admin key" in refused.stderr
        assert done.returncode == 0, done.stderr
        dump = tmp_path / "dump.jsonl"
        assert doctor(["--dump", str(dump), "--url", daemon.url, "--api-key", KEYS["plain"]]) == 0

        log = daemon.log()
        assert "--api-key is on the command line" in log
        assert f"--api-key-file {path}: other users" in log
        shown = capsys.readouterr()
        told = "".join((log, shown.out, shown.err, dump.read_text(), refused.stderr, done.stdout, done.stderr))
        for secret in (*KEYS.values(), "key-of-nobody-1", PROMPT):
            assert secret not in told


def test_key_in_the_environment_is_not_in_the_list_of_processes(tmp_path: Path) -> None:
    with running_daemon(tmp_path, environment={"FLEXQUANT_API_KEY": KEYS["plain"]}) as daemon:
        line = Path(f"/proc/{daemon.process.pid}/cmdline")
        if not line.exists():
            pytest.skip(f"{os.uname().sysname} has no /proc")
        assert KEYS["plain"].encode() not in line.read_bytes()
        assert "command line" not in daemon.log()
