"""Events from any thread to any number of HTTP clients, none of which can hold up anything.

Every listener has a short queue. When it is full, the listener is told the newest state and how many events it
missed, instead of the events themselves.
"""

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

from flexquant.server.streaming import HEARTBEAT, HEARTBEAT_S

CAPACITY: Final = 64
"""Events that may wait for one listener."""

Payload = Mapping[str, Any]


def event_text(kind: str, payload: Payload) -> str:
    """One server-sent event of this kind."""
    return f"event: {kind}\ndata: {json.dumps(payload, ensure_ascii=False, separators=(',', ':'))}\n\n"


class EventStream:
    """Hands every event to all who listen at that moment.

    Args:
        capacity: Events that may wait for one listener.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._listeners: set[_Listener] = set()
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    def publish(self, kind: str, payload: Payload) -> None:
        """Tell all who listen. From any thread; the payload is JSON and stays as it is from now on."""
        if not self._listeners:
            return
        with self._lock:
            for listener in self._listeners:
                listener.add((kind, payload), self._capacity)

    def close(self) -> None:
        """End all streams once they have sent what waits; later ones end at once. From any thread."""
        with self._lock:
            self._closed = True
            for listener in self._listeners:
                listener.end()

    async def listen(
        self, present: Callable[[], Payload], *, heartbeat_s: float = HEARTBEAT_S
    ) -> AsyncGenerator[str, None]:
        """The text of one stream: an event `state`, then events as they happen, until `close`.

        Closing the iteration, or cancelling who iterates, leaves nothing behind.

        Args:
            present: The newest state; asked at the beginning and after events were missed.
            heartbeat_s: A comment is sent when nothing happens for so long.
        """
        listener = _Listener(asyncio.get_running_loop())
        with self._lock:
            if self._closed:
                listener.end()
            self._listeners.add(listener)
        try:
            yield event_text("state", present())
            while True:
                with self._lock:
                    events, missed, ended = listener.take()
                if missed:
                    yield event_text("state", {**present(), "missed": missed})
                for kind, payload in events:
                    yield event_text(kind, payload)
                if ended:
                    return
                if not await listener.woken(heartbeat_s):
                    yield HEARTBEAT
        finally:
            with self._lock:
                self._listeners.discard(listener)


class _Listener:
    """One client's queue. All but `woken` is called under the stream's lock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wake = asyncio.Event()
        self._waking = False
        self._events: deque[tuple[str, Payload]] = deque()
        self._missed = 0
        self._ended = False

    def add(self, event: tuple[str, Payload], capacity: int) -> None:
        """One more event; if there is no room for it, all that wait are missed."""
        if self._missed or len(self._events) >= capacity:
            self._missed += len(self._events) + 1
            self._events.clear()
        else:
            self._events.append(event)
        self._call()

    def end(self) -> None:
        """No more events."""
        self._ended = True
        self._call()

    def take(self) -> tuple[list[tuple[str, Payload]], int, bool]:
        """What waits, how many events were missed, and whether that was all."""
        taken = list(self._events), self._missed, self._ended
        self._events.clear()
        self._missed, self._waking = 0, False
        self._wake.clear()
        return taken

    async def woken(self, seconds: float) -> bool:
        """Wait until something is there; False when nothing comes."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    def _call(self) -> None:
        """Wake the loop's side, once for any number of events."""
        if self._waking:
            return
        self._waking = True
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:  # the loop has ended, and its listener with it
            self._events.clear()
