"""Requests made from the OpenAPI document, right and wrong ones: nothing comes back that it does not describe."""

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flexquant.server.openapi.operations import OPERATIONS
from support.fake_daemon import FakeDaemon, fake_daemon

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import positive_data_acceptance

READING = (
    "/health",
    "/metrics",
    "/ready",
    "/v1/elastic",
    "/v1/elastic/events",
    "/v1/elastic/sequence",
    "/v1/elastic/trace",
    "/v1/models",
    "/v1/models/{name}",
)
WRITING = ("/detokenize", "/tokenize", "/v1/chat/completions", "/v1/completions", "/v1/elastic/target")

PROMPT = {"prompt": ["word", "other words"], "n": 2, "max_tokens": 3, "ignore_eos": True, "seed": 1}
CHAT = {"messages": [{"role": "user", "content": "word"}], "max_tokens": 3, "n": 2}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", PROMPT),
    ("/v1/completions", PROMPT | {"logprobs": 3}),
    ("/v1/completions", PROMPT | {"logprobs": 0, "echo": True, "max_tokens": 0}),
    ("/v1/completions", PROMPT | STREAM),
    ("/v1/completions", PROMPT | STREAM | {"logprobs": 2, "echo": True}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 2}),
    ("/v1/chat/completions", CHAT | STREAM | {"logprobs": True}),
    ("/tokenize", {"prompt": "word"}),
    ("/tokenize", {"messages": CHAT["messages"]}),
    ("/detokenize", {"tokens": [5, 6]}),
    ("/v1/elastic/target", {"position": 1, "ttl_seconds": 60}),
    ("/v1/elastic/target", {"mode": "auto"}),
]


@pytest.fixture(scope="module")
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon("--allow-host", "testserver") as running:
        running.app.state.daemon.controller.events.close()  # so that their stream has an end
        yield running


@pytest.fixture(scope="module")
def document(daemon: FakeDaemon) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", daemon.app)


def check(operation: Any, mode: GenerationMode, examples: int) -> None:
    """Validate the answers to so many requests that are made for an operation."""

    @given(st.data())
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        # What the schema allows may still be impossible, such as a token beyond the vocabulary: a 400 then.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    run()


@pytest.mark.parametrize("path", READING)
def test_what_is_read_is_as_described(document: Any, path: str) -> None:
    check(document[path]["GET"], GenerationMode.POSITIVE, 3)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", WRITING)
def test_answers_to_right_and_wrong_bodies_are_as_described(document: Any, path: str, mode: GenerationMode) -> None:
    check(document[path]["POST"], mode, 25)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", WRITING)
def test_answers_to_many_more_bodies_are_as_described(document: Any, path: str, mode: GenerationMode) -> None:
    check(document[path]["POST"], mode, 300)


@pytest.mark.parametrize(("path", "body"), GOOD)
def test_every_kind_of_answer_is_as_described(document: Any, path: str, body: dict[str, Any]) -> None:
    answer = document[path]["POST"].Case(body=body, media_type="application/json").call_and_validate()
    assert answer.status_code == 200


def test_a_stream_that_fails_is_as_described(daemon: FakeDaemon, document: Any) -> None:
    daemon.model.fail = OSError("not this time")
    case = document["/v1/completions"]["POST"].Case(body=PROMPT | STREAM, media_type="application/json")
    assert b'"error"' in case.call_and_validate().content


def test_every_operation_is_described_and_tested(daemon: FakeDaemon) -> None:
    found = {(method, path) for path, methods in daemon.app.openapi()["paths"].items() for method in methods}
    assert found == set(OPERATIONS) == {("get", path) for path in READING} | {("post", path) for path in WRITING}


def test_document_does_not_know_fastapis_errors(daemon: FakeDaemon) -> None:
    text = json.dumps(daemon.app.openapi())
    assert "422" not in text
    assert "HTTPValidationError" not in text


def test_keys_are_in_the_document_where_they_are_needed() -> None:
    with fake_daemon("--api-key", "secret") as daemon:
        document = daemon.app.openapi()
    assert document["security"] == [{"key": []}]
    open_paths = [path for path, methods in document["paths"].items() if methods.get("get", {}).get("security") == []]
    assert sorted(open_paths) == ["/health", "/ready"]
    assert "secret" not in json.dumps(document)
