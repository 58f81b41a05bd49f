"""What all sequences of a request took together: the usage of its answer, and its part of the log line."""

from typing import Any

from fastapi import Request

from flexquant.server.generation_request import Cut, Finished, Usage
from flexquant.server.request_log import usage_fields


class Totals:
    """What all sequences of a request took together.

    Args:
        choices: Of each prompt, whose tokens count once.
    """

    def __init__(self, choices: int) -> None:
        self._choices = choices
        self._ended: dict[int, Finished | Cut] = {}

    @property
    def known(self) -> bool:
        """Whether any has ended."""
        return bool(self._ended)

    def add(self, index: int, ended: Finished | Cut) -> None:
        """Sequence `index` has ended; it stays finished once it is."""
        self._ended.setdefault(index, ended)

    def usage(self) -> dict[str, Any]:
        """The answer's `usage`."""
        total = self._sum()
        return {
            "prompt_tokens": total.prompt_tokens,
            "completion_tokens": total.completion_tokens,
            "total_tokens": total.prompt_tokens + total.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": total.cached_tokens},
            "flexquant": {
                "position_start": total.position_start,
                "position_end": total.position_end,
                "position_worst": total.position_worst,
            },
        }

    def log(self, request: Request) -> None:
        """Add to the request's line in the log."""
        reasons = "+".join(sorted({ended.reason for ended in self._ended.values() if isinstance(ended, Finished)}))
        request.scope["flexquant.log"].update(finish=reasons, **usage_fields(self._sum()))

    def _sum(self) -> Usage:
        every = [self._ended[index].usage for index in sorted(self._ended)]
        # A prompt's first choice has always begun before the others.
        first_choices = [ended.usage for index, ended in self._ended.items() if index % self._choices == 0]
        return Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in first_choices),
            cached_tokens=sum(usage.cached_tokens for usage in first_choices),
            completion_tokens=sum(usage.completion_tokens for usage in every),
            position_start=every[0].position_start,
            position_end=every[-1].position_end,
            position_worst=max(usage.position_worst for usage in every),
        )
