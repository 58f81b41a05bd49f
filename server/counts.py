"""What the daemon counts as it happens, for `GET /metrics`."""

import threading
from typing import Final

from flexquant.server.exposition import Counter, Histogram

_DIRECTIONS: Final = (("down",), ("up",))
_FIRST_TOKEN_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
_NEXT_TOKEN_S: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_SWAP_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Counts:
    """Counters and histograms of one daemon, since it started.

    No lock is taken for a token or a request: each metric is written by one thread alone, which is named below. Moves,
    which are rare, end on any thread and have a lock.
    """

    def __init__(self) -> None:
        # The event loop's.
        self.requests = Counter(
            "flexquant_requests_total",
            "HTTP requests that were answered, by the path's pattern and the status (gone: the client left before). "
            "Those for /health, /ready and /metrics are not counted.",
            ("endpoint", "status"),
        )
        # The engine thread's.
        self.prompt_tokens = Counter(
            "flexquant_prompt_tokens_total", "Tokens of prompts that went in, those from the cache included."
        )
        self.cached_prompt_tokens = Counter(
            "flexquant_cached_prompt_tokens_total",
            "Tokens of prompts whose keys and values were there from an earlier request.",
        )
        self.generated_tokens = Counter("flexquant_generated_tokens_total", "Tokens that were generated.")
        self.first_token = Histogram(
            "flexquant_time_to_first_token_seconds",
            "Seconds from a request's arrival to an answer's first token, waiting included.",
            _FIRST_TOKEN_S,
        )
        self.next_token = Histogram(
            "flexquant_inter_token_latency_seconds", "Seconds between two tokens of an answer.", _NEXT_TOKEN_S
        )
        self.swap_bytes = Counter(
            "flexquant_swap_bytes_total",
            "Bytes of weights that steps gave back (down) or took (up).",
            ("direction",),
            _DIRECTIONS,
        )
        # Any thread's, with the lock.
        self._moves = threading.Lock()
        self.swaps = Counter(
            "flexquant_swap_total",
            "Moves that ended at a smaller (down) or better (up) position than they began at, also when cut short.",
            ("direction",),
            _DIRECTIONS,
        )
        self.failed_swaps = Counter("flexquant_swap_failures_total", "Moves that ended with an error.")
        self.swap_seconds = Histogram(
            "flexquant_swap_seconds", "Seconds that moves took, from the order to the end.", _SWAP_S
        )
        self.all: tuple[Counter | Histogram, ...] = (
            *(self.requests, self.prompt_tokens, self.cached_prompt_tokens, self.generated_tokens),
            *(self.first_token, self.next_token),
            *(self.swaps, self.failed_swaps, self.swap_seconds, self.swap_bytes),
        )
        """In the order in which they are shown."""

    def stepped(self, before: int, after: int) -> None:
        """A step has changed the bytes of resident weights. Engine thread."""
        self.swap_bytes.add(abs(after - before), "down" if after < before else "up")

    def moved(self, start: int, end: int, seconds: float) -> None:
        """A move has ended, at another position than it began at or not. Any thread."""
        if start == end:
            return
        with self._moves:
            self.swaps.add(1, "down" if end > start else "up")
            self.swap_seconds.observe(seconds)

    def move_failed(self) -> None:
        """A move has ended with an error. Any thread."""
        with self._moves:
            self.failed_swaps.add(1)
