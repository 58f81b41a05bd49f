"""A daemon that asks for an API key, as the tests of other people's clients use it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.daemon import RunningDaemon, running_daemon
from support.prometheus import scraped

KEY: Final = "the-key-of-this-test"
PROMPT: Final = "The function returns"
QUESTION: Final = "What is a trait?"
TOO_LONG: Final = "word " * 5000
"""More than any context that the demo model has."""
LONG_ANSWER: Final = 1900
"""Tokens of an answer that a client leaves in the middle."""


@dataclass(frozen=True, slots=True)
class KeyedDaemon:
    """The demo model at position 0, behind `KEY`."""

    daemon: RunningDaemon

    @property
    def url(self) -> str:
        """Such as "http://127.0.0.1:41234"."""
        return self.daemon.url

    @property
    def base(self) -> str:
        """What clients call the base URL."""
        return f"{self.daemon.url}/v1"

    @contextmanager
    def sees_a_client_leave(self) -> Iterator[None]:
        """Within the block an answer is left in the middle: the daemon ends it early, and its place is free again.

        Raises:
            AssertionError: It did not, for a minute.
        """
        before = self.clients_that_left()
        yield
        deadline = time.monotonic() + 60
        while self.clients_that_left() == before or self._running() != 0:
            assert time.monotonic() < deadline, f"the answer went on:\n{self.daemon.log()}"
            time.sleep(0.05)

    def wait_until_it_answers(self) -> None:
        """Return as soon as a request is being answered.

        Raises:
            AssertionError: None was, for a minute.
        """
        deadline = time.monotonic() + 60
        while not self._running():
            assert time.monotonic() < deadline, f"nobody asked:\n{self.daemon.log()}"

    def clients_that_left(self) -> int:
        """How many have left an answer in the middle so far."""
        return self.daemon.log().count(" finish=cancelled")

    def _running(self) -> float | None:
        metrics = self.daemon.get("/metrics", headers={"authorization": f"Bearer {KEY}"})
        return scraped(metrics.text).value("flexquant_requests_running")


@contextmanager
def keyed_daemon(folder: Path) -> Iterator[KeyedDaemon]:
    """Run one until the block ends.

    Args:
        folder: For its log.
    """
    with running_daemon(folder, "--pin", "0", environment={"FLEXQUANT_API_KEY": KEY}) as daemon:
        yield KeyedDaemon(daemon)
