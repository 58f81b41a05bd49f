"""What the tests have for this: the hog, and the daemon with a log.

`tests` is no installed package; whoever needs these imports them from here.
"""

import sys

from bench.worker import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from support.daemon import RunningDaemon, running_daemon
from support.hog import Hog

__all__ = ["Hog", "RunningDaemon", "running_daemon"]
