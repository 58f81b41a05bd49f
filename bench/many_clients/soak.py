"""A daemon from its start to its end with many clients in between."""

import sys
import time
from pathlib import Path
from typing import Final

from bench.many_clients.asks import CHAT, TEXT
from bench.many_clients.crowd import Plan, run
from bench.many_clients.report import Report
from bench.worker import ROOT

# The tests have what starts a daemon and reads its log, and `tests` is no installed package.
sys.path.insert(0, str(ROOT / "tests"))

from support.daemon import RunningDaemon, running_daemon

_LOG_SECONDS: Final = 30.0


def soak(folder: Path, plan: Plan, *flags: str) -> tuple[Report, str]:
    """Start a daemon on the demo, let many clients ask it, and stop it. Returns what they saw, and the daemon's log.

    What the daemon itself gets wrong is in the report too: errors in its log, requests that never ended, its exit code.

    Args:
        folder: For the log.
        plan: Who asks, and for how long.
        flags: Further ones of the daemon.
    """
    with running_daemon(folder, "--pin", "0", *flags) as daemon:
        report = run(daemon.url, daemon.process.pid, plan)
        _check_all_ended(daemon, report)
        code = daemon.stop()
        if code != 0:
            report.wrong(f"the daemon ended with exit code {code}")
        log = daemon.log()
    for line in log.splitlines():
        if any(word in line for word in (" ERROR ", " CRITICAL ", "Traceback", "Exception", "Warning: ")):
            report.wrong(f"in the log: {line}")
    return report, log


def _check_all_ended(daemon: RunningDaemon, report: Report) -> None:
    """Each request is logged when it has ended, whatever became of it: one that hangs is missing."""
    deadline = time.monotonic() + _LOG_SECONDS
    while (logged := _logged(daemon.log())) < report.sent and time.monotonic() < deadline:
        time.sleep(0.1)
    if not report.sent <= logged <= report.begun:
        report.wrong(f"{logged} requests have ended by the log; {report.sent} were sent, {report.begun} begun")


def _logged(log: str) -> int:
    return sum(log.count(f"path='{path}'") for path in (TEXT, CHAT))
