"""Answers at a pinned position: the same tokens in the middle of everything as on a quiet daemon."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx

from bench.figures import spread_positions
from bench.many_clients.asks import CHAT, DOCUMENT, TEXT
from bench.server_process import ServerError
from bench.soak.log import MOST_DETAILS, Seen

POSITIONS: Final = 5
"""That have references, from one end to the other."""
_TOKENS: Final = 16
_PROBES: Final[Sequence[tuple[str, Mapping[str, Any]]]] = [
    (TEXT, {"prompt": DOCUMENT[:300], "temperature": 0}),
    (TEXT, {"prompt": list(range(100, 300)), "temperature": 1, "seed": 5}),
    (TEXT, {"prompt": DOCUMENT[2000:2200], "temperature": 0.8, "top_p": 0.9, "seed": 7, "n": 2}),
    (CHAT, {"messages": [{"role": "user", "content": DOCUMENT[:200]}], "temperature": 1, "top_k": 40, "seed": 3}),
]


class Pinned:
    """Knows what the quiet daemon answers, and compares.

    Args:
        http: Connections of its own.
        seen: Is filled.
        max_position: The model's.
    """

    def __init__(self, http: httpx.AsyncClient, seen: Seen, max_position: int) -> None:
        self._http = http
        self._seen = seen
        self.positions = spread_positions(max_position, POSITIONS)
        self._references: dict[tuple[int, int], list[str]] = {}

    async def learn(self) -> None:
        """Ask at every position while nobody else asks, and leave position 0 pinned."""
        for position in [*reversed(self.positions)]:
            answer = await self._http.post("/v1/elastic/target", json={"position": position})
            if answer.status_code != 200 or answer.json()["position"] != position:
                self._seen.fault(f"a quiet daemon does not go to {position}: {answer.status_code} {answer.text:.300}")
                continue
            for probe in range(len(_PROBES)):
                texts, usage = await self._ask(probe)
                if usage["position_worst"] != position or usage["position_start"] != position:
                    self._seen.fault(f"pinned to {position}, answered at {usage}")
                self._references[probe, position] = texts

    async def compare(self, probe: int, position: int) -> None:
        """Ask while the model is pinned, and compare if it still is when the answer is complete.

        Args:
            probe: Any number.
            position: That was pinned and reached just before.
        """
        probe %= len(_PROBES)
        before = await self._held(position)
        try:
            texts, usage = await self._ask(probe)
        except _RefusedError as error:
            self._seen.wishes[f"probe at a pinned position: {error}"] += 1
            return
        except httpx.HTTPError as error:
            self._seen.load.wrong(f"probe {probe} at position {position}: {error!r}")
            return
        if before is None or before != await self._held(position) or usage["position_worst"] != position:
            self._seen.not_compared += 1
            return
        self._seen.compared += 1
        reference = self._references.get((probe, position))
        if texts != reference and len(self._seen.wrong_tokens) < MOST_DETAILS:
            self._seen.wrong_tokens.append(
                f"probe {probe} at position {position}: {texts!r:.400}, on the quiet daemon {reference!r:.400}"
            )

    async def _held(self, position: int) -> object:
        """The decision that brought the model to where it is pinned; None if it is not there or may leave."""
        state = (await self._http.get("/v1/elastic")).json()
        pinned = state["mode"] == "pinned" and state["pinned_position"] == position and state["override"] is None
        there = state["position"] == state["target"] == position
        return (state["last_decision"] or {"when": 0.0})["when"] if pinned and there else None

    async def _ask(self, probe: int) -> tuple[list[str], Mapping[str, int]]:
        path, fields = _PROBES[probe]
        answer = await self._http.post(path, json={**fields, "max_tokens": _TOKENS, "ignore_eos": True})
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise _RefusedError(f"503 {answer.json()['error']['code']}")
        answer.raise_for_status()
        found = answer.json()
        texts = [item["message"]["content"] if path == CHAT else item["text"] for item in found["choices"]]
        positions: Mapping[str, int] = found["usage"]["flexquant"]
        return texts, positions


class _RefusedError(ServerError):
    """503 before the request was admitted."""
