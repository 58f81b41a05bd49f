"""A short soak of the demo: everything at once, and every check holds that the demo is large enough for."""

import sys

import pytest

from bench.soak.checks import table
from bench.soak.model import machine, model
from bench.soak.run import Plan, soak
from bench.soak.verdict import checks
from bench.worker import ROOT

MIB = 1 << 20


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_everything_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    ensemble = model("demo", ROOT)
    seen, log = soak(Plan(ensemble, machine(ensemble, 192 * MIB), seconds=45, clients=4, seed=3))
    found = checks(seen)
    with capsys.disabled():
        sys.stdout.write(f"\n{table(found)}\n")
    assert not [check for check in found if check.held is False], [*seen.faults, *seen.load.details, log[-4000:]]
    assert seen.compared > 0
