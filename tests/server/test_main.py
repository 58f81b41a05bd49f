"""Exit codes and messages of `flexquant-serve`, as far as no model is needed."""

import socket
import subprocess
import sys

import pytest

from flexquant.engine.errors import PortInUseError, UsageError
from flexquant.server.main import listen_on, main
from support.daemon import clean_environment


def test_busy_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"127.0.0.1:{port}") as refused:
            listen_on("127.0.0.1", port)
    assert refused.value.exit_code == 5
    assert "--port" in (refused.value.hint or "")


def test_free_port_is_taken_at_once() -> None:
    with listen_on("127.0.0.1", 0) as listener:
        assert listener.getsockname()[1] > 0


def test_address_of_another_machine_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"203\.0\.113\.1"):
        listen_on("203.0.113.1", 0)


def test_mistake_is_printed_with_its_hint_and_gives_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", "0"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "error: --model is missing\nhint: Try the embedded demo: flexquant-serve --model demo\n"


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys\n"
        "from flexquant.server.main import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    loaded = {'torch', 'fastapi', 'uvicorn', 'tokenizers'} & set(sys.modules)\n"
        "    assert not loaded, loaded\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean_environment(), timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert "--memory-budget" in ended.stdout


def test_daemon_loads_neither_the_builder_nor_libraries_of_tests() -> None:
    code = (
        "import sys, flexquant.server.model_source, flexquant.server.startup, flexquant.server.http_server\n"
        "loaded = {name for name in sys.modules if name.startswith("
        "('transformers', 'safetensors', 'flexquant.ensemble_builder', 'huggingface_hub', 'openai', 'exllamav2', "
        "'llguidance', 'flexquant.server.openapi', 'rich', 'prompt_toolkit'))}\n"
        "assert not loaded, loaded"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean_environment(), timeout=120
    )
    assert ended.returncode == 0, ended.stderr
