"""The demo model, small and at temperature 1, says what schemas, expressions and grammars allow, and nothing else."""

import asyncio
import json
from collections.abc import Awaitable, Iterator
from typing import Any, Final

import httpx
import jsonschema
import pytest
from fastapi import FastAPI

from flexquant.server.app import create_app
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
        yield create_app(daemon.state, settings)
    finally:
        daemon.close()


def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000", timeout=None)


def ask_all(app: FastAPI, bodies: list[Json], *, beside: Awaitable[None] | None = None) -> list[Json]:
    """The first choice of each answer; all are asked at once, with `beside` going on meanwhile."""

    async def one(connection: httpx.AsyncClient, body: Json) -> Json:
        answer = await connection.post(CHAT, json=QUESTION | body)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()["choices"][0]
        return found

    async def run() -> list[Json]:
        async with client(app) as connection:
            tasks = [asyncio.ensure_future(one(connection, body)) for body in bodies]
            if beside is not None:
                await beside
            return await asyncio.gather(*tasks)

    return asyncio.run(run())


def by_schema(schema: Schema) -> Json:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def test_answers_to_random_schemas_validate(app: FastAPI) -> None:
    schemas = [random_schema(seed) for seed in range(240)]
    bodies = [by_schema(schema) | {"seed": 1, "max_tokens": MOST_TOKENS} for schema in schemas]
    stopped = 0
    for schema, choice in zip(schemas, ask_all(app, bodies), strict=True):
        if choice["finish_reason"] == "stop":
            stopped += 1
            jsonschema.Draft202012Validator(schema).validate(json.loads(choice["message"]["content"]))
    print(f"\n{stopped} of {len(schemas)} answers to random schemas stopped; all of these validate")  # noqa: T201  # for -s
    assert stopped >= 0.95 * len(schemas)
