"""A conversion that was cut short, at any moment and in any way, is continued by the same call."""

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flexquant.engine.errors import FlexQuantError
from flexquant.ensemble_builder.exllamav2 import convert_model as module
from flexquant.ensemble_builder.progress import Progress
from support import converting
from support.converting import commands_of, convert, fault, log_of, stores_of

LINEARS = 2 * (2 * 7 + 1)
"""Linear layers of both levels."""


@pytest.fixture(scope="module")
def undisturbed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    convert(checkpoint, out)
    return stores_of(out)


@pytest.mark.parametrize(
    ("moment", "kind", "runs"),
    [
        ("measure:before initial_embeddings", "killed", "mmll"),
        ("measure:part 2", "killed", "mmll"),
        ("measure:exported", "killed", "mmll"),
        ("4.0:part 3", "killed", "mlll"),
        ("4.0:part 3", "memory", "mlll"),
        ("4.0:part 3", "leaves", "mlll"),
        ("4.0:compiling", "killed", "mlll"),
        ("4.0:compiled", "killed", "mlll"),
        ("2.5:before embeddings", "killed", "mlll"),
    ],
)
def test_the_converter_goes_on_with_its_job(
    checkpoint: Path, undisturbed: dict[str, bytes], tmp_path: Path, moment: str, kind: str, runs: str
) -> None:
    faults = fault(tmp_path, moment, kind)
    with pytest.raises(FlexQuantError):
        convert(checkpoint, tmp_path, faults=faults)
    convert(checkpoint, tmp_path, faults=faults)
    assert stores_of(tmp_path) == undisturbed
    assert _runs(tmp_path) == runs
    log = log_of(tmp_path)
    assert log.count(" -- Resuming job") == 1
    assert log.count(" -- Linear: ") == LINEARS, "nothing was quantized twice"


@pytest.mark.parametrize(
    ("moment", "kind"),
    [
        ("measure:invalid 3", "killed"),
        ("measure:part 3", "half a file"),
        ("4.0:invalid 3", "killed"),
        ("4.0:part 3", "half a file"),
    ],
)
def test_a_job_that_cannot_be_relied_on_is_begun_anew(
    checkpoint: Path, undisturbed: dict[str, bytes], tmp_path: Path, moment: str, kind: str
) -> None:
    faults = fault(tmp_path, moment, kind)
    with pytest.raises(FlexQuantError, match="ended by SIGKILL"):
        convert(checkpoint, tmp_path, faults=faults)
    convert(checkpoint, tmp_path, faults=faults)
    assert stores_of(tmp_path) == undisturbed
    assert " -- Resuming job" not in log_of(tmp_path)


def test_a_job_that_is_finished_needs_no_converter(checkpoint: Path, tmp_path: Path) -> None:
    """Its process ended in an error after all was done, or we did before the store was written."""
    convert(checkpoint, tmp_path, faults=fault(tmp_path, "4.0:before finished", "killed"))
    assert _runs(tmp_path) == "mll"


@pytest.mark.parametrize("lost", ["measure/exported.json", "converted/4.0/output.safetensors"])
def test_a_finished_job_without_its_result_is_begun_anew(
    checkpoint: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    _interrupt(monkeypatch, "write_atomically" if lost.startswith("measure") else "write_store", at=1)
    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, tmp_path)
    monkeypatch.undo()
    (tmp_path / ".work" / "exllamav2" / lost).unlink()
    convert(checkpoint, tmp_path)
    assert stores_of(tmp_path) == undisturbed
    assert _runs(tmp_path) == ("mmll" if lost.startswith("measure") else "mlll")


def test_a_job_of_another_folder_is_begun_anew(checkpoint: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """The converter would go on in the folder that is written in its job."""
    with pytest.raises(FlexQuantError):
        convert(checkpoint, tmp_path / "before", faults=fault(tmp_path, "4.0:part 3", "killed"))
    (tmp_path / "before").rename(tmp_path / "after")
    convert(checkpoint, tmp_path / "after")
    assert stores_of(tmp_path / "after") == undisturbed
    assert not (tmp_path / "before").exists()


def test_stores_that_are_done_are_kept(
    checkpoint: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what was calibrated on: the converter's mix has random tokens in it, others for each level."""
    _interrupt(monkeypatch, "write_store", at=2)
    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, tmp_path)
    monkeypatch.undo()
    calibration = (tmp_path / ".work" / "exllamav2" / "calibration.json").read_bytes()
    inode = (tmp_path / "levels" / "4.0" / "quantized.safetensors").stat().st_ino
    text = convert(checkpoint, tmp_path)
    assert text.model_dump() == json.loads(calibration)
    assert (tmp_path / "levels" / "4.0" / "quantized.safetensors").stat().st_ino == inode
    assert stores_of(tmp_path) == undisturbed
    assert _runs(tmp_path) == "mll"


def test_parts_of_an_earlier_run_are_counted_as_done(checkpoint: Path, tmp_path: Path) -> None:
    faults = fault(tmp_path, "4.0:part 3", "killed")
    with pytest.raises(FlexQuantError):
        convert(checkpoint, tmp_path, faults=faults)
    shown = io.StringIO()
    convert(checkpoint, tmp_path, progress=Progress(shown, environment={}))
    assert "converting to 4.0 bits: 7/7 in " in shown.getvalue()
    assert "measuring" not in shown.getvalue()


@pytest.mark.skipif(sys.platform != "linux", reason="the system ends the converter on Linux alone")
@pytest.mark.parametrize(
    ("moment", "how"),
    [("measure:part 2", signal.SIGKILL), ("4.0:part 2", signal.SIGKILL), ("4.0:part 2", signal.SIGINT)],
)
def test_the_converter_ends_with_the_builder(
    checkpoint: Path, undisturbed: dict[str, bytes], tmp_path: Path, moment: str, how: signal.Signals
) -> None:
    faults = fault(tmp_path, moment, "hang")
    builder = subprocess.Popen(
        [sys.executable, converting.__file__, str(checkpoint), str(tmp_path), str(faults)], stderr=subprocess.PIPE
    )
    with builder:
        converter = _started(faults.with_suffix(".pid"), builder)
        assert converter.status() != psutil.STATUS_ZOMBIE
        builder.send_signal(how)
        builder.wait()
    converter.wait(20)
    convert(checkpoint, tmp_path, faults=faults)
    assert stores_of(tmp_path) == undisturbed


def _runs(out: Path) -> str:
    """The converter's runs: m for the measurement, l for a level."""
    return "".join("m" if " -om " in command else "l" for command in commands_of(out))


def _interrupt(monkeypatch: pytest.MonkeyPatch, name: str, at: int) -> None:
    """Make a function raise KeyboardInterrupt when it is called for the `at`th time."""
    calls = []
    whole: Callable[..., None] = getattr(module, name)

    def interrupted(*given: object, **named: object) -> None:
        calls.append(given)
        if len(calls) == at:
            raise KeyboardInterrupt
        whole(*given, **named)

    monkeypatch.setattr(module, name, interrupted)


def _started(pid: Path, builder: subprocess.Popen[bytes]) -> psutil.Process:
    """Wait for the converter to come to where it hangs."""
    while not (pid.exists() and pid.read_text()):
        assert builder.poll() is None, builder.stderr and builder.stderr.read().decode()
        time.sleep(0.02)
    return psutil.Process(int(pid.read_text()))
