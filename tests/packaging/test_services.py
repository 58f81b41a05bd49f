"""The service files start what there is, with flags that there are, and wait long enough for its end."""

import os
import plistlib
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from flexquant.engine.errors import InputError, MemoryShortError, PortInUseError, UsageError
from flexquant.server.settings import Settings, load_settings

SERVICES = Path(__file__).parents[2] / "services"
UNIT = SERVICES / "flexquant.service"
PLIST = SERVICES / "org.flexquant.serve.plist"
SHUTDOWN_S = Settings.model_fields["shutdown_timeout"].default


def unit() -> ConfigParser:
    """The unit file."""
    found = ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    found.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep capitals
    found.read(UNIT)
    return found


def property_list(home: Path) -> dict[str, object]:
    """The property list, as the guide installs it."""
    found: dict[str, object] = plistlib.loads(PLIST.read_text().replace("HOME", str(home)).encode())
    return found


def test_both_start_the_daemon_with_the_file_of_settings(tmp_path: Path) -> None:
    config = tmp_path / ".config" / "flexquant" / "flexquant.toml"
    config.parent.mkdir(parents=True)
    config.write_text('model = "demo"\nprofile = "polite"\n')
    by_systemd = unit()["Service"]["ExecStart"].replace("%h", str(tmp_path)).split()
    by_launchd = property_list(tmp_path)["ProgramArguments"]
    assert by_systemd == by_launchd
    assert by_systemd[0] == str(tmp_path / ".local" / "share" / "flexquant" / "bin" / "flexquant-serve")
    assert load_settings(by_systemd[1:]).profile == "polite"


def test_both_wait_for_answers_that_are_being_computed(tmp_path: Path) -> None:
    assert int(unit()["Service"]["TimeoutStopSec"]) > SHUTDOWN_S
    exit_s = property_list(tmp_path)["ExitTimeOut"]
    assert isinstance(exit_s, int)
    assert exit_s > SHUTDOWN_S


def test_systemd_starts_again_only_what_a_start_can_mend() -> None:
    never = {int(code) for code in unit()["Service"]["RestartPreventExitStatus"].split()}
    assert never == {UsageError.exit_code, InputError.exit_code, PortInUseError.exit_code}
    assert MemoryShortError.exit_code not in never, "memory may be there in five seconds"


def test_launchd_does_not_start_again_what_was_stopped(tmp_path: Path) -> None:
    assert property_list(tmp_path)["KeepAlive"] == {"SuccessfulExit": False}
    assert property_list(tmp_path)["Label"] == PLIST.stem


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    program = tmp_path / ".local" / "share" / "flexquant" / "bin" / "flexquant-serve"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / UNIT.name
    shutil.copy(UNIT, copy)
    environment = os.environ | {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "SYSTEMD_LOG_LEVEL": "warning"}

    def verify() -> tuple[int, list[str]]:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--user", "--man=no", str(copy)],
            env=environment,
            capture_output=True,
            text=True,
        )
        return done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]

    code, told = verify()
    assert (code, told) == (0, [])
    copy.write_text(UNIT.read_text() + "\n[Service]\nNoSuchThing=yes\n")
    assert verify()[1], "it would have said so"
