"""Events reach every listener, and no listener holds up anything or leaves anything behind."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

from flexquant.server.elastic_events import ElasticEvents
from flexquant.server.elastic_state import DecisionState
from flexquant.server.event_stream import EventStream, event_text
from flexquant.server.streaming import HEARTBEAT


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    async def within_reason() -> None:
        async with asyncio.timeout(60):
            await coroutine

    asyncio.run(within_reason())


def parsed(text: str) -> tuple[str, Any]:
    """Kind and data of one event."""
    kind, data, *rest = text.split("\n")
    assert rest == ["", ""]
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def listen(stream: EventStream, **options: float) -> AsyncGenerator[str, None]:
    return stream.listen(lambda: {"position": 7}, **options)


async def kinds(texts: AsyncGenerator[str, None], count: int) -> list[str]:
    return [parsed(await anext(texts))[0] for _ in range(count)]


def test_the_present_state_comes_first_then_events_in_order() -> None:
    async def check() -> None:
        stream = EventStream()
        stream.publish("early", {})  # before anybody listens
        async with aclosing(listen(stream)) as texts:
            assert parsed(await anext(texts)) == ("state", {"position": 7})
            for n in range(10):
                stream.publish("decision", {"n": n})
            assert [parsed(await anext(texts)) for _ in range(10)] == [("decision", {"n": n}) for n in range(10)]

    run(check())


def test_every_listener_gets_every_event() -> None:
    async def check() -> None:
        stream = EventStream()
        async with aclosing(listen(stream)) as one, aclosing(listen(stream)) as other:
            await anext(one)
            await anext(other)
            stream.publish("phase", {})
            assert await kinds(one, 1) == await kinds(other, 1) == ["phase"]

    run(check())


def test_an_event_of_another_thread_wakes_who_waits() -> None:
    async def check() -> None:
        stream = EventStream()
        async with aclosing(listen(stream)) as texts:
            await anext(texts)
            threading.Timer(0.05, stream.publish, ("phase", {"n": 1})).start()
            assert parsed(await anext(texts)) == ("phase", {"n": 1})

    run(check())


def test_many_threads_lose_nothing() -> None:
    async def check() -> None:
        stream, count = EventStream(capacity=1000), 100

        def publish_all() -> None:
            for n in range(count):
                stream.publish("phase", {"n": n})

        async with aclosing(listen(stream)) as texts:
            await anext(texts)
            threads = [threading.Thread(target=publish_all) for _ in range(8)]
            for thread in threads:
                thread.start()
            got = [parsed(await anext(texts))[1]["n"] for _ in range(8 * count)]
            assert sorted(got) == sorted(list(range(count)) * 8)
            for thread in threads:
                thread.join()

    run(check())


def test_a_slow_reader_gets_the_newest_state_and_how_much_it_missed() -> None:
    async def check() -> None:
        stream, state = EventStream(capacity=4), {"position": 0}
        async with aclosing(stream.listen(lambda: dict(state))) as texts:
            await anext(texts)
            for n in range(11):
                state["position"] = n
                stream.publish("position", {"position": n})
            assert parsed(await anext(texts)) == ("state", {"position": 10, "missed": 11})
            stream.publish("position", {"position": 11})
            assert parsed(await anext(texts)) == ("position", {"position": 11})

    run(check())


def test_a_slow_reader_does_not_keep_events() -> None:
    async def check() -> None:
        stream = EventStream(capacity=4)
        async with aclosing(listen(stream)) as slow, aclosing(listen(stream)) as quick:
            await anext(slow)
            await anext(quick)
            for _ in range(100):
                stream.publish("phase", {})
                assert await kinds(quick, 1) == ["phase"]
            assert parsed(await anext(slow))[1]["missed"] == 100

    run(check())


def test_silence_is_filled_with_comments() -> None:
    async def check() -> None:
        stream = EventStream()
        async with aclosing(listen(stream, heartbeat_s=0.01)) as texts:
            await anext(texts)
            assert await anext(texts) == HEARTBEAT
            assert HEARTBEAT.startswith(":")
            stream.publish("phase", {})
            while (text := await anext(texts)) == HEARTBEAT:
                pass
            assert parsed(text) == ("phase", {})

    run(check())


def test_close_ends_streams_after_what_waits_and_new_ones_at_once() -> None:
    async def check() -> None:
        stream = EventStream()
        texts = listen(stream)
        await anext(texts)
        stream.publish("phase", {})
        threading.Timer(0.05, stream.close).start()
        assert [parsed(text)[0] async for text in texts] == ["phase"]
        assert [parsed(text)[0] async for text in listen(stream)] == ["state"]
        assert stream.listeners == 0

    run(check())


def test_whoever_leaves_leaves_nothing_behind() -> None:
    async def check() -> None:
        stream = EventStream()
        async with aclosing(listen(stream)) as texts:
            await anext(texts)
            assert stream.listeners == 1
        assert stream.listeners == 0
        texts = listen(stream)
        await anext(texts)
        waiting = asyncio.create_task(anext(texts))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert stream.listeners == 0
        assert len(asyncio.all_tasks()) == 1

    run(check())


def test_a_loop_that_has_ended_does_not_disturb_who_publishes() -> None:
    stream = EventStream()
    loop = asyncio.new_event_loop()
    texts = listen(stream)
    loop.run_until_complete(anext(texts))
    loop.close()
    for _ in range(1000):
        stream.publish("phase", {})
    stream.close()


def test_text_stays_on_one_line() -> None:
    assert event_text("phase", {"why": "a\nb"}) == 'event: phase\ndata: {"why":"a\\nb"}\n\n'


class Noted(EventStream):
    """Keeps what is published."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def publish(self, kind: str, payload: Any) -> None:
        self.seen.append((kind, dict(payload)))


def test_ticks_tell_only_what_is_new() -> None:
    noted = Noted()
    events = ElasticEvents(noted)
    decision = DecisionState("shrink", "why", 5e8, 0, 2)

    def tick(position: int, phase: str, made: DecisionState | None) -> list[str]:
        noted.seen.clear()
        events.tell(position=position, target=2, footprint_bytes=100 - position, phase=phase, decision=made)
        return [kind for kind, _ in noted.seen]

    assert tick(0, "hold", None) == []
    assert tick(0, "hold", None) == []
    assert tick(0, "shrink", decision) == ["decision", "phase"]
    assert noted.seen[0][1]["decision"]["why"] == "why"
    assert noted.seen[1][1] == {"position": 0, "target": 2, "footprint_bytes": 100, "phase": "shrink", "before": "hold"}
    assert tick(2, "shrink", decision) == ["position"]
    assert noted.seen[0][1]["before"] == 0
    assert tick(2, "cooldown", decision) == ["phase"]
    assert tick(2, "cooldown", DecisionState("shrink", "why", 5e8, 0, 2)) == ["decision"]
