"""What many clients saw, and the table of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.figures import percentile

MIB: Final = 1 << 20
MOST_DETAILS: Final = 20


@dataclass(slots=True)
class Report:
    """Filled while clients run.

    Args:
        clients: How many.
    """

    clients: int
    seconds: float = 0.0
    """From the first request of the measured part to the end of the last."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Requests by what became of them."""
    details: list[str] = field(default_factory=list)
    """What was wrong, the first `MOST_DETAILS` times."""
    begun: int = 0
    """Requests of which something was sent, those of the warm-up and of the control of the daemon included."""
    sent: int = 0
    """Of these, the requests that were sent to their end: the daemon must have seen them."""
    sequences: int = 0
    """Choices of complete answers; like the tokens, of those that came with a usage."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    probes: int = 0
    """Answers that were equal to their reference, as they had to be."""
    first_token_s: list[float] = field(default_factory=list)
    """Of streamed answers: from the request to the first text."""
    whole_s: list[float] = field(default_factory=list)
    """Of answers that are not streamed: from the request to the answer."""
    moves: int = 0
    anonymous_at_start: int = 0
    """RssAnon in bytes before the measured part: no client, position 0, and KV pages not counted."""
    anonymous_peak: int = 0
    """The most while clients ran, KV pages and all."""
    anonymous_at_end: int = 0
    """In the same state as at the start."""

    def wrong(self, what: str) -> None:
        """Something happened that must not."""
        self.outcomes["WRONG"] += 1
        if len(self.details) < MOST_DETAILS:
            self.details.append(what)

    @property
    def growth(self) -> int:
        """Bytes by which RssAnon has grown between two equal states."""
        return self.anonymous_at_end - self.anonymous_at_start

    def start_measuring(self) -> None:
        """Forget the warm-up, but for what was wrong and for the number of requests."""
        wrong = self.outcomes["WRONG"]
        self.outcomes.clear()
        if wrong:
            self.outcomes["WRONG"] = wrong
        self.sequences = self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self.probes = self.moves = self.anonymous_peak = 0
        self.first_token_s.clear()
        self.whole_s.clear()

    def load(self) -> list[tuple[str, str]]:
        """What clients asked for and got: names and figures."""
        total = self.outcomes.total()
        rows = [("clients", str(self.clients)), ("seconds", f"{self.seconds:.0f}"), ("requests", f"{total:,}")]
        rows += [(f"- {name}", f"{count:,} ({count / total:.1%})") for name, count in sorted(self.outcomes.items())]
        cached, completed = self.cached_tokens, self.completion_tokens
        rows += [
            ("choices of complete answers", f"{self.sequences:,}"),
            ("prompt tokens", f"{self.prompt_tokens:,}"),
            ("of these cached", f"{cached:,} ({cached / max(1, self.prompt_tokens):.0%})"),
            ("completion tokens", f"{completed:,} ({completed / max(1.0, self.seconds):,.0f}/s)"),
            ("first token, p50 / p99", _percentiles(self.first_token_s)),
            ("whole answer, p50 / p99", _percentiles(self.whole_s)),
        ]
        return rows

    def table(self) -> str:
        """Markdown."""
        memory = (self.anonymous_at_start, self.anonymous_peak, self.anonymous_at_end)
        return table_of(
            [
                *self.load(),
                ("answers compared with a reference", f"{self.probes:,}"),
                ("moves", f"{self.moves:,}"),
                (
                    "RssAnon at start / peak / end (the peak with KV pages)",
                    " / ".join(f"{count / MIB:.1f}" for count in memory) + " MiB",
                ),
            ]
        )


def table_of(rows: Sequence[tuple[str, str]]) -> str:
    """Names and figures as Markdown."""
    return "\n".join(["| what | figure |", "| --- | --- |", *(f"| {name} | {figure} |" for name, figure in rows)])


def _percentiles(seconds: Sequence[float]) -> str:
    return f"{percentile(seconds, 0.5):.2f} / {percentile(seconds, 0.99):.2f} s" if seconds else "none"
