"""Carries out the schedule: hogs that take and leave, users that pin, limit and let go."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import httpx

from bench.machine.helpers import Hog
from bench.soak.log import Seen
from bench.soak.pinned import Pinned
from bench.soak.schedule import Auto, Leave, Limit, Pin, Planned, Take

_CRITICAL = "critical"


class Disturber:
    """Everything that happens to the daemon beside its load.

    Args:
        http: Connections of its own.
        hogs: Ready to take.
        seen: Is filled.
        pinned: Compares answers.
        slack: Bytes that are available above R_low when nobody takes or asks anything, at position 0.
        elastic: Bytes between the ends of the sequence.
    """

    def __init__(
        self, http: httpx.AsyncClient, hogs: Sequence[Hog], seen: Seen, pinned: Pinned, *, slack: int, elastic: int
    ) -> None:
        self._http = http
        self._hogs = hogs
        self._held = [0] * len(hogs)
        self._busy = [asyncio.Lock() for _ in hogs]
        self._seen = seen
        self._pinned = pinned
        self._slack = slack
        self._elastic = elastic

    async def run(self, planned: Sequence[Planned]) -> None:
        """All of it, each event when it is due and not before the one before it that concerns the same."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, item in enumerate(planned):
                await asyncio.sleep(max(0.0, began + item.at - time.monotonic()))
                if isinstance(item.event, Take | Leave):
                    group.create_task(self._move_hog(item.event))
                else:
                    group.create_task(self._wish(number, item.event))

    async def leave(self) -> None:
        """All hogs give everything back, and no wish is left."""
        for number in range(len(self._hogs)):
            await self._move_hog(Leave(number))
        await self._http.post("/v1/elastic/target", json={"worst_position": self._pinned.positions[-1]})
        await self._http.post("/v1/elastic/target", json={"mode": "auto"})

    async def _move_hog(self, event: Take | Leave) -> None:
        hog = self._hogs[event.hog]
        async with self._busy[event.hog]:
            if isinstance(event, Leave):
                self._held[event.hog] = await asyncio.to_thread(hog.give_back)
                return
            nbytes = round(event.share * self._elastic) + (self._slack if event.from_slack else 0)
            self._held[event.hog] = await asyncio.to_thread(hog.take, nbytes, event.per_second)
            self._seen.taken += nbytes

    async def _wish(self, number: int, event: Pin | Limit | Auto) -> None:
        positions = self._pinned.positions
        if isinstance(event, Pin):
            position = positions[event.number]
            state = await self._post("pin", {"position": position, "ttl_seconds": event.ttl})
            if state is None:
                return
            if state["position"] == position:
                await self._pinned.compare(number, position)
            elif state["override"] != _CRITICAL and state["pinned_position"] == position:
                self._seen.fault(f"a pin to {position} was answered, and the model is at {state['position']}")
        elif isinstance(event, Limit):
            worst = round(event.share * positions[-1])
            state = await self._post("worst position", {"worst_position": worst, "ttl_seconds": event.ttl})
            if state is not None and state["worst_position"] == worst and state["position"] > worst:
                self._seen.fault(f"the worst position was limited to {worst}, and the model is at {state['position']}")
        else:
            await self._post("auto", {"mode": "auto"})

    async def _post(self, kind: str, body: dict[str, object]) -> dict[str, Any] | None:
        """Wish for something; None if it was refused, as a pin beyond the worst position is."""
        answer = await self._http.post("/v1/elastic/target", json=body)
        if answer.status_code == httpx.codes.BAD_REQUEST and kind == "pin":
            self._seen.wishes["pin beyond the worst position: refused"] += 1
            return None
        if answer.status_code != httpx.codes.OK:
            self._seen.fault(f"{kind} {body}: {answer.status_code} {answer.text:.300}")
            return None
        self._seen.wishes[kind] += 1
        found: dict[str, Any] = answer.json()
        return found
