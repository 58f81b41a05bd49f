"""The container files, as far as they can be judged without a container engine."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from flexquant.server.settings import Settings
from support.served import served

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile*"))
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICE: dict[str, Any] = COMPOSE["services"]["flexquant"]
BESIDE = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
"""Where programs of this environment are looked for."""
VARIABLES = {f"FLEXQUANT_{name.upper()}" for name in Settings.model_fields}


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, rest) of a Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def last_stage(path: Path) -> list[tuple[str, str]]:
    found = instructions(path)
    return found[max(at for at, (name, _) in enumerate(found) if name == "FROM") :]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_image_runs_as_somebody_else_than_root_and_knows_its_settings(path: Path) -> None:
    stage = last_stage(path)
    assert len([name for name, _ in instructions(path) if name == "FROM"]) == 2, "what builds is left behind"
    users = [rest for name, rest in stage if name == "USER"]
    assert users
    assert int(users[-1]) > 0, "a number, which orchestrators can see is not root"
    given = {name for kind, rest in stage if kind == "ENV" for name in re.findall(r"(FLEXQUANT_\w+)=", rest)}
    assert {"FLEXQUANT_HOST", "FLEXQUANT_PORT", "FLEXQUANT_MODEL"} <= given <= VARIABLES
    assert not [rest for _, rest in stage if "API_KEY" in rest], "a key in an image is no secret"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_health_check_of_the_image_tells_a_living_daemon_from_none(path: Path) -> None:
    (check,) = [rest for name, rest in last_stage(path) if name == "HEALTHCHECK"]
    command = json.loads(check[check.index("CMD") + len("CMD") :])
    assert command[0] == "python"
    with served("--api-key", "some-key") as daemon:
        there = command[-1].replace(":8000/", f":{daemon.port}/")
        assert there != command[-1]
        assert subprocess.run([sys.executable, *command[1:-1], there], capture_output=True).returncode == 0
    assert subprocess.run([sys.executable, *command[1:-1], there], capture_output=True).returncode != 0


@pytest.mark.skipif(shutil.which("hadolint", path=BESIDE) is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=BESIDE)
    assert hadolint
    done = subprocess.run([hadolint, *DOCKERFILES], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_build_gets_what_the_package_is_made_of_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = set(project["tool"]["setuptools"]["package-dir"].values())
    files = {"pyproject.toml", "setup.py", "native_build.py", project["project"]["readme"], "LICENSE"}
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == packages | files


def test_compose_publishes_on_loopback_and_keeps_the_key_in_a_file() -> None:
    assert [port.split(":")[0] for port in SERVICE["ports"]] == ["127.0.0.1"]
    assert set(SERVICE["environment"]) <= VARIABLES
    assert not {"FLEXQUANT_API_KEY", "FLEXQUANT_ALLOW_UNAUTHENTICATED"} & set(SERVICE["environment"])
    (secret,) = SERVICE["secrets"]
    assert SERVICE["environment"]["FLEXQUANT_API_KEY_FILE"] == f"/run/secrets/{secret}"
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert str((DOCKER / COMPOSE["secrets"][secret]["file"]).relative_to(ROOT)) in ignored


def test_compose_limits_the_memory_and_waits_for_answers() -> None:
    assert SERVICE["mem_limit"] == SERVICE["memswap_limit"], "no swap that would hide the limit"
    assert SERVICE["user"].startswith("${FLEXQUANT_USER:?"), "nobody becomes root by forgetting it"
    assert SERVICE["cap_drop"] == ["ALL"]
    assert int(SERVICE["stop_grace_period"].removesuffix("s")) > Settings.model_fields["shutdown_timeout"].default


def test_compose_files_build_the_images_that_there_are() -> None:
    cuda = yaml.safe_load((DOCKER / "compose.cuda.yaml").read_text())["services"]["flexquant"]
    for service in (SERVICE, cuda):
        assert (DOCKER / service["build"]["context"]).resolve() == ROOT
        assert ROOT / service["build"]["dockerfile"] in DOCKERFILES
    assert cuda["image"] != SERVICE["image"]
