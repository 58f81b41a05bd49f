"""The demo model, small and at temperature 1, says what schemas, expressions and grammars allow, and nothing else."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import httpx
import jsonschema
import pytest
from fastapi import FastAPI

from flexquant.server.app import create_app
from flexquant.server.keys import load_keys
from flexquant.server.model_source import resolve
from flexquant.server.settings import load_settings
from flexquant.server.startup import start
from support.random_schemas import Schema, random_schema

Json = dict[str, Any]
CHAT: Final = "/v1/chat/completions"
QUESTION: Final[Json] = {"messages": [{"role": "user", "content": "Describe a Python module."}], "temperature": 1}
MOST_TOKENS: Final = 600


@pytest.fixture(scope="module")
def app() -> Iterator[FastAPI]:
    settings = load_settings(["--model", "demo", "--pin", "0", "--max-queue", "240"])
    daemon = start(settings, resolve("demo"))
    try:
        yield create_app(daemon.state, settings, load_keys(settings))
    finally:
        daemon.close()


def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000", timeout=None)


def ask_all(app: FastAPI, bodies: list[Json]) -> list[tuple[str, str]]:
    """Text and finish reason of each answer, all of them asked for at once."""

    async def run() -> list[tuple[str, str]]:
        async with client(app) as connection:
            return await asyncio.gather(*(ask(connection, body) for body in bodies))

    return asyncio.run(run())


async def ask(connection: httpx.AsyncClient, body: Json) -> tuple[str, str]:
    """Text and finish reason of an answer, streamed if `body` says so."""
    answer = await connection.post(CHAT, json=QUESTION | body)
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        (choice,) = answer.json()["choices"]
        return choice["message"]["content"], choice["finish_reason"]
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: {")]
    choices = [json.loads(line)["choices"][0] for line in lines]
    return "".join(choice["delta"].get("content", "") for choice in choices), choices[-1]["finish_reason"]


def by_schema(schema: Schema) -> Json:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def validate(text: str, schema: Schema) -> None:
    """An independent judge of the answer."""
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def test_answers_to_random_schemas_validate(app: FastAPI) -> None:
    schemas = [random_schema(seed) for seed in range(240)]
    bodies = [by_schema(schema) | {"seed": 1, "max_tokens": MOST_TOKENS} for schema in schemas]
    stopped = 0
    for schema, (text, reason) in zip(schemas, ask_all(app, bodies), strict=True):
        if reason == "stop":
            stopped += 1
            validate(text, schema)
    print(f"\n{stopped} of {len(schemas)} answers to random schemas stopped; all of these validate")  # noqa: T201  # for -s
    assert stopped >= 0.95 * len(schemas)


def test_a_streamed_answer_is_the_whole_one(app: FastAPI) -> None:
    asked = [
        *(by_schema(random_schema(seed)) for seed in range(300, 306)),
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": "([A-Z][a-z]{2,8} ){2,5}[0-9]{3}"}},
        {"structured_outputs": {"choice": ["a module", "a package"]}},
        {"structured_outputs": {"grammar": 'start: "def " NAME "(" (NAME ", ")* ")"\nNAME: /[a-z_]{1,8}/'}},
    ]
    bodies = [body | {"seed": 2, "max_tokens": 120} for body in asked]
    whole = ask_all(app, bodies)
    assert ask_all(app, [body | {"stream": True} for body in bodies]) == whole
    assert re.fullmatch("([A-Z][a-z]{2,8} ){2,5}[0-9]{3}", whole[-3][0])
    assert whole[-2][0] in ("a module", "a package")
    assert re.match(r"def [a-z_]{1,8}\(", whole[-1][0])


def test_greedy_answers_are_constrained_too(app: FastAPI) -> None:
    schemas = [random_schema(seed) for seed in range(306, 312)]
    bodies = [by_schema(schema) | {"temperature": 0, "max_tokens": MOST_TOKENS} for schema in schemas]
    for schema, (text, reason) in zip(schemas, ask_all(app, bodies), strict=True):
        assert reason == "stop"
        validate(text, schema)


def test_moves_between_positions_do_not_disturb_a_constraint(app: FastAPI) -> None:
    schemas = [random_schema(seed) for seed in range(312, 336)]

    async def run() -> list[tuple[str, str]]:
        async with client(app) as connection:
            last = (await connection.get("/v1/elastic")).json()["max_position"]
            bodies = [by_schema(schema) | {"seed": 3, "max_tokens": MOST_TOKENS} for schema in schemas]
            answers = [asyncio.ensure_future(ask(connection, body)) for body in bodies]
            between = 0
            for position in (last, 0, last // 2, last, 0):
                moved = await connection.post("/v1/elastic/target", json={"position": position})
                assert moved.json()["position"] == position
                between += not all(answer.done() for answer in answers)
            assert between, "none was made while answers went on"
            return await asyncio.gather(*answers)

    for schema, (text, reason) in zip(schemas, asyncio.run(run()), strict=True):
        assert reason == "stop"
        validate(text, schema)
