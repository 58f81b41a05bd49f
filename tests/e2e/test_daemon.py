"""The daemon as users start and stop it."""

import json
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import httpx
import pytest

from support.daemon import RunningDaemon, clean_environment, running_daemon, serve_command

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with running_daemon(
        tmp_path_factory.mktemp("daemon"), "--parallel", "2", "--max-queue", "2", "--pin", "0"
    ) as running:
        yield running


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A daemon that is expected to end by itself."""
    return subprocess.run(
        serve_command(*arguments), capture_output=True, text=True, timeout=120, env=clean_environment(environment)
    )


def test_health_ready_and_models(daemon: RunningDaemon) -> None:
    assert daemon.get("/health").json() == {"status": "ok"}
    assert daemon.get("/ready").status_code == 200
    models = daemon.get("/v1/models").json()
    assert [model["object"] for model in models["data"]] == ["model"]
    name = models["data"][0]["id"]
    assert daemon.get(f"/v1/models/{name}").json() == models["data"][0]
    assert daemon.get("/v1/models/demo").json() == {**models["data"][0], "id": "demo"}
    assert daemon.get("/v1/models/other").json()["error"]["code"] == "model_not_found"


def test_elastic_state_has_the_promised_fields(daemon: RunningDaemon) -> None:
    state = daemon.get("/v1/elastic").json()
    assert {
        "position",
        "max_position",
        "footprint_bytes",
        "footprint_range_bytes",
        "mode",
        "worst_position",
        "available_bytes",
        "pressure",
        "quality",
        "last_decision",
    } <= state.keys()
    low, up = state["footprint_range_bytes"]
    assert low < up
    assert {"perplexity", "kl"} <= state["quality"].keys()


def test_target_moves_there_and_back(daemon: RunningDaemon) -> None:
    last = daemon.get("/v1/elastic").json()["max_position"]
    low, up = daemon.get("/v1/elastic").json()["footprint_range_bytes"]
    smallest = daemon.post("/v1/elastic/target", {"position": last}).json()
    assert (smallest["position"], smallest["mode"], smallest["footprint_bytes"]) == (last, "pinned", low)
    by_bytes = daemon.post("/v1/elastic/target", {"bytes": (low + up) // 2}).json()
    assert low < by_bytes["footprint_bytes"] <= (low + up) // 2
    best = daemon.post("/v1/elastic/target", {"position": 0}).json()
    assert (best["position"], best["footprint_bytes"]) == (0, up)


@pytest.mark.parametrize(
    "body",
    [
        {"position": 10**6},
        {"bytes": 1},
        {"worst_position": 10**6},
        {},
        {"position": 1, "bytes": 10**9},
        {"mode": "manual"},
    ],
)
def test_impossible_target_is_a_400(daemon: RunningDaemon, body: dict[str, object]) -> None:
    answer = daemon.post("/v1/elastic/target", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_same_seed_gives_the_same_text_streamed_or_not(daemon: RunningDaemon) -> None:
    body = {"model": "demo", "prompt": "The function", "max_tokens": 48, "temperature": 0.9, "seed": 7}
    whole = daemon.post("/v1/completions", body).json()
    assert whole["usage"]["completion_tokens"] <= 48
    chunks = [
        json.loads(line.removeprefix("data: "))
        for line in daemon.post("/v1/completions", body | {"stream": True}).text.splitlines()
        if line.startswith("data: {")
    ]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    other = daemon.post("/v1/completions", body | {"seed": 8}).json()
    assert other["choices"][0]["text"] != whole["choices"][0]["text"]


def test_position_is_told_in_header_and_usage(daemon: RunningDaemon) -> None:
    answer = daemon.post("/v1/completions", {"prompt": "A", "max_tokens": 2})
    assert answer.headers["x-flexquant-position"] == "0"
    assert answer.json()["usage"]["flexquant"] == {"position_start": 0, "position_end": 0, "position_worst": 0}
    assert answer.json()["system_fingerprint"].endswith("-p0")


def test_client_that_goes_away_frees_the_daemon_for_the_next(daemon: RunningDaemon) -> None:
    body = {"prompt": "x", "max_tokens": 1800, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{daemon.url}/v1/completions", json=body, timeout=60) as answer:
        next(answer.iter_lines())
    assert daemon.post("/v1/completions", {"prompt": "y", "max_tokens": 1}).status_code == 200
    assert daemon.lines_with("finish=cancelled")


def test_full_queue_is_a_503_with_retry_after(daemon: RunningDaemon) -> None:
    """Two compute and two wait: who comes then is refused at once, and who waits is answered in the end."""
    long = {"prompt": "x", "max_tokens": 1800, "ignore_eos": True, "stream": True}
    with ThreadPoolExecutor(4) as clients:
        with ExitStack() as streams:
            running = []  # an iterator that dies closes its connection
            for _ in range(2):
                url = f"{daemon.url}/v1/completions"
                stream = streams.enter_context(httpx.stream("POST", url, json=long, timeout=60))
                running.append(stream.iter_lines())
                assert next(running[-1]).startswith("data: {")
            asked = [clients.submit(daemon.post, "/v1/completions", {"prompt": "y", "max_tokens": 1}) for _ in range(4)]
            refused = [answer.result() for answer in islice(as_completed(asked, timeout=60), 2)]
        assert [answer.status_code for answer in refused] == [503, 503]
        assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
        assert sorted(answer.result().status_code for answer in asked) == [200, 200, 503, 503]


def test_log_has_one_line_per_request_and_no_prompt(daemon: RunningDaemon) -> None:
    answer = daemon.post("/v1/completions", {"prompt": "a very private matter", "max_tokens": 3, "ignore_eos": True})
    (line,) = daemon.lines_with(answer.headers["x-request-id"])
    for part in (
        "path='/v1/completions'",
        "status=200",
        "prompt_tokens=",
        "completion_tokens=3",
        "position_start=0",
        "position_end=0",
        "seconds=",
    ):
        assert part in line
    assert "private" not in daemon.log()


def test_port_in_use_is_exit_code_5(daemon: RunningDaemon) -> None:
    port = daemon.url.rsplit(":", 1)[1]
    ended = run("--model", "demo", "--port", port)
    assert ended.returncode == 5
    assert f"127.0.0.1:{port} is in use" in ended.stderr
    assert "hint: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_sigterm_lets_a_running_stream_finish_and_exits_0(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        body = {"prompt": "x", "max_tokens": 100, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{daemon.url}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            daemon.process.terminate()
            rest = "\n".join(lines)
        assert rest.rstrip().endswith("data: [DONE]")
        assert daemon.process.wait(60) == 0
        assert "Traceback" not in daemon.log()


def test_sigterm_ends_long_streams_with_an_error_after_the_timeout(tmp_path: Path) -> None:
    with running_daemon(tmp_path, "--shutdown-timeout", "0.2") as daemon:
        body = {"prompt": "x", "max_tokens": 2000, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{daemon.url}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            daemon.process.terminate()
            rest = [line for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["type"] == "unavailable_error"
        assert daemon.process.wait(60) == 0


def test_too_little_memory_says_how_much_is_missing() -> None:
    ended = run("--model", "demo", "--port", "0", "--memory-budget", "1MiB")
    assert ended.returncode == 4
    assert "are missing" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--model", "/no/such/folder"], 3, "/no/such/folder"),
        (["--model", "demo", "--port", "x"], 2, "port"),
        (["--model", "demo", "--host", "0.0.0.0"], 2, "no API key"),
        (["--model", "demo", "--pin", "100000"], 2, "--pin 100000"),
        (["--model", "demo", "--context", "100000"], 2, "at most 2048"),
        ([], 2, "--model"),
    ],
)
def test_mistake_at_the_start_is_told_without_a_traceback(arguments: list[str], code: int, named: str) -> None:
    ended = run(*arguments, "--port", "0") if "--port" not in arguments else run(*arguments)
    assert ended.returncode == code
    assert named in ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


def test_key_closes_everything_but_health_and_ready(tmp_path: Path) -> None:
    with running_daemon(tmp_path, environment={"FLEXQUANT_API_KEY": "secret"}) as daemon:
        assert daemon.get("/health").status_code == 200
        assert daemon.get("/v1/elastic").status_code == 401
        assert daemon.post("/v1/elastic/target", {"position": 0}).status_code == 401
        assert daemon.get("/v1/elastic", headers={"authorization": "Bearer secret"}).status_code == 200
        assert "secret" not in daemon.log()


def test_port_0_picks_a_free_one(daemon: RunningDaemon) -> None:
    with socket.create_connection(("127.0.0.1", int(daemon.url.rsplit(":", 1)[1])), timeout=5):
        pass
