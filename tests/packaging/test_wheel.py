"""What users install: sdist → wheel → a clean environment → a daemon that answers."""

import json
import os
import re
import subprocess
import sys
import tarfile
import time
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("engine", "ensemble_builder", "server", "clients")
LIBRARY = "flexquant/engine/native/libflexquant.so"


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command, show its output where it fails, and return its standard output."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that was built from that sdist (not from the checkout)."""
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def test_wheel_holds_every_module_of_the_checkout(distributions: tuple[Path, Path]) -> None:
    """A new subpackage that pyproject.toml does not list would be missing from the wheel."""
    with zipfile.ZipFile(distributions[1]) as wheel:
        packed = set(wheel.namelist())
    expected = {
        f"flexquant/{path.relative_to(ROOT)}" for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    } | {f"flexquant/{package}/py.typed" for package in PACKAGES}
    assert expected <= packed


def test_wheel_holds_the_demo_ensemble_and_stays_small(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        demo = [entry for entry in wheel.infolist() if entry.filename.startswith("flexquant/server/demo/")]
        assert "flexquant/server/demo/ensemble.json" in {entry.filename for entry in demo}
        assert not [entry.filename for entry in demo if "/.work/" in entry.filename]
        assert sum(entry.file_size for entry in demo) <= 16 * 2**20


def test_wheel_holds_the_dashboard(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        packed = set(wheel.namelist())
    files = {path.name for path in (ROOT / "server" / "dashboard").iterdir()}
    assert "index.html" in files
    assert {f"flexquant/server/dashboard/{name}" for name in files} <= packed


def test_sdist_builds_from_itself_and_carries_the_licence(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    assert {"LICENSE", "README.md", "pyproject.toml", "server/demo/ensemble.json"} <= names


def test_sdist_carries_the_native_sources_for_every_processor(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    folder = ROOT / "engine" / "native" / "cpp"
    sources = {str(path.relative_to(ROOT)) for path in folder.iterdir() if path.suffix in (".cpp", ".h")}
    assert sources | {"setup.py", "native_build.py"} <= names
    assert not [name for name in names if name.endswith(".so")]


def test_wheel_holds_the_native_library_and_fits_every_python(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        assert LIBRARY in wheel.namelist()
        assert not [name for name in wheel.namelist() if name.endswith((".cpp", ".h"))]
    assert re.search(r"-py3-none-(?!any)\w+\.whl$", distributions[1].name)


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"PATH": str(Path(sys.executable).parent)}, id="no compiler"),
        pytest.param({"CC": "false", "CXX": "false"}, id="compiler does not run"),
        pytest.param({"CXXFLAGS": "--no-such-flag"}, id="compiling fails"),
    ],
)
def test_package_is_built_without_a_working_compiler(
    distributions: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with tarfile.open(distributions[0]) as sdist:
        if hasattr(tarfile, "data_filter"):  # Python 3.11.4 and newer
            sdist.extraction_filter = tarfile.data_filter
        sdist.extractall(tmp_path)
    source = next(tmp_path.iterdir())
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-build-isolation"]
    command += ["--wheel-dir", str(tmp_path / "wheels"), str(source)]
    pip = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert pip.returncode == 0, pip.stdout
    with zipfile.ZipFile(next((tmp_path / "wheels").iterdir())) as wheel:
        assert LIBRARY not in wheel.namelist()
        assert "flexquant/engine/native/__init__.py" in wheel.namelist()
    assert len([line for line in pip.stdout.splitlines() if "the native kernels are left out" in line]) == 1


@pytest.fixture(scope="module")
def clean_environment(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel, its dependencies and nothing else."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=True)
    pip = folder / "bin" / "pip"
    index = os.environ.get("TORCH_INDEX_URL")
    # The CPU build first, as the Makefile does: a plain install on Linux would bring the CUDA libraries.
    _run(pip, "install", "--quiet", *(["--index-url", index] if index else []), "torch==2.13.*")
    _run(pip, "install", "--quiet", distributions[1])
    return folder


@pytest.fixture
def demo_daemon(clean_environment: Path, tmp_path: Path) -> Iterator[str]:
    """`flexquant-serve --model demo` from the clean environment, started outside the checkout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FLEXQUANT"))}
    log = (tmp_path / "log").open("w+")
    daemon = subprocess.Popen(
        [clean_environment / "bin" / "flexquant-serve", "--model", "demo", "--port", "0"],
        cwd=tmp_path,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        yield _address(daemon, tmp_path / "log")
    finally:
        daemon.terminate()
        assert daemon.wait(timeout=30) == 0
        log.close()


def _address(daemon: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for the line with the address that the daemon listens on."""
    while daemon.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if found and "ready" in log.read_text().lower():
            return found.group()
        time.sleep(0.1)
    raise AssertionError(f"the daemon ended:\n{log.read_text()}")


def test_demo_answers_from_a_clean_environment(demo_daemon: str) -> None:
    body = json.dumps({"model": "demo", "prompt": "The function returns", "max_tokens": 8}).encode()
    request = urllib.request.Request(
        f"{demo_daemon}/v1/completions", data=body, headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        answer = json.load(response)
    assert answer["choices"][0]["text"]
    assert answer["usage"]["completion_tokens"] == 8


def test_clean_environment_loads_the_native_library(clean_environment: Path, tmp_path: Path) -> None:
    load = "from flexquant.engine.native import library; library.load()"
    _run(clean_environment / "bin" / "python", "-I", "-c", load, cwd=tmp_path)


def test_clean_environment_has_no_builder_or_test_libraries(clean_environment: Path) -> None:
    installed = {
        package["name"] for package in json.loads(_run(clean_environment / "bin" / "pip", "list", "--format", "json"))
    }
    assert "transformers" not in installed
    assert "pandas" not in installed
