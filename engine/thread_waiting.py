"""How torch's worker threads wait for each other.

OpenMP's threads spin by default. Beside other programs a spinning thread burns the core that the thread it waits for
needs: on two busy cores, one decode pass of a small model took 3 s instead of 10 ms. A server that lives beside
browsers and games sleeps instead.
"""

import os


def sleep_while_waiting() -> None:
    """Make OpenMP threads sleep while they wait, unless the user's OMP_WAIT_POLICY says otherwise.

    Call it before torch is imported for the first time: the OpenMP library reads its settings when it is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
