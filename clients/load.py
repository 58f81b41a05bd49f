"""What the daemon is busy with, read from its `/metrics`."""

import re
from dataclasses import dataclass
from typing import Final, Self

ANSWERING: Final = ("/v1/completions", "/v1/chat/completions")
"""Paths whose requests are answered by the model; all others only look or steer."""

_SAMPLE: Final = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_ENDPOINT: Final = re.compile(r'(?:^|,)endpoint="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Load:
    """Of one moment; counts since the daemon started.

    Args:
        running: Answers that are being computed.
        waiting: Answers that wait for their turn.
        requests: Requests for answers so far.
        generated_tokens: Tokens generated so far.
    """

    running: int
    waiting: int
    requests: int
    generated_tokens: int

    @classmethod
    def from_metrics(cls, text: str) -> Self:
        """From Prometheus' text format, as `GET /metrics` answers it (docs/reference/metrics.md).

        Raises:
            ValueError: A metric that is needed is not there, or is no number.
        """
        values: dict[str, float] = {}
        requests = 0.0
        for line in text.splitlines():
            found = _SAMPLE.fullmatch(line)  # comments are none
            if found is None:
                continue
            name, labels, value = found.groups()
            if labels is None:
                values[name] = float(value)
            elif name == "flexquant_requests_total" and _endpoint(labels) in ANSWERING:
                requests += float(value)
        try:
            return cls(
                running=int(values["flexquant_requests_running"]),
                waiting=int(values["flexquant_requests_waiting"]),
                requests=int(requests),
                generated_tokens=int(values["flexquant_generated_tokens_total"]),
            )
        except KeyError as error:
            raise ValueError(f"there is no metric {error}") from error


def _endpoint(labels: str) -> str | None:
    found = _ENDPOINT.search(labels)
    return found[1] if found else None
