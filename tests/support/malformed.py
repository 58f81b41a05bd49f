"""Requests that are wrong in some way, or right by chance: drawn from a seed, so that a failure can be had again."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

BODIES: Final[dict[str, dict[str, Any]]] = {
    "/v1/completions": {
        "model": "demo",
        "prompt": "word",
        "max_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 1,
        "stop": ["a"],
        "logit_bias": {"5": 1},
        "logprobs": 2,
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "word"}]}],
        "max_completion_tokens": 2,
        "response_format": {"type": "text"},
        "tools": [],
        "logprobs": True,
        "top_logprobs": 1,
        "presence_penalty": 0.5,
    },
    "/tokenize": {"prompt": "word", "add_special_tokens": True},
    "/detokenize": {"tokens": [1, 2, 3]},
    "/v1/elastic/target": {"position": 1, "ttl_seconds": 5},
}
PATHS: Final = (
    *BODIES,
    *("/health", "/ready", "/metrics", "/v1/models", "/v1/models/demo", "/v1/elastic", "/openapi.json"),
)
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW", "post", "P*")
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1.5, 2**31, 2**63, -(2**63) - 1, 10**30, 1e308, 5e-324, float("nan"), float("inf")),
    *("", "a", "\x00", "\ud800", "\udfff\ud800", "\U0010ffff", "é" * 50, "x" * 5000, "{{ 7 * 7 }}", "../../etc/passwd"),
    *(
        [],
        {},
        [[]],
        [None],
        {"": None},
        [{}],
        ["a", 1, None],
        [2**63],
        [-1],
        [10**6],
        {"type": "text"},
        {"a": {"b": 1}},
    ),
)


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent.

    Args:
        method: Of HTTP, or none.
        target: Path and query, percent-encoded where need be.
        headers: Lines, without those that frame the body.
        body: Its bytes, in the parts in which they are sent.
        cut: Whether the client leaves before the end of the body.
    """

    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: tuple[bytes, ...]
    cut: bool = False


def malformed(chance: random.Random) -> Request:
    """One more request."""
    path = chance.choice(tuple(BODIES) if chance.random() < 0.85 else PATHS)
    likely = "POST" if path in BODIES else "GET"
    return Request(
        method=likely if chance.random() < 0.8 else chance.choice(METHODS),
        target=_target(chance, path),
        headers=tuple(_headers(chance)),
        body=tuple(_parts(chance, _body(chance, path))) if likely == "POST" or chance.random() < 0.2 else (),
        cut=chance.random() < 0.03,
    )


def _target(chance: random.Random, path: str) -> bytes:
    if chance.random() < 0.85:
        target = path.encode()
    else:
        end = chance.choice(
            ("/", "//", "/..", "/%00", "/%ff%fe", "%2f", ";a", "/%F0%9F%98%80", "/" + "x" * 3000, "%", "/%zz")
        )
        whole = chance.choice(
            ("/", "*", "//", "/../../etc/passwd", "http://evil.example/v1/models", "evil:80", "[", "/" + "a/" * 500)
        )
        target = chance.choice((path + end, f"/.{path}", f"/{path}", path.upper(), path[1:], whole)).encode()
    if chance.random() < 0.1:
        target += b"?" + chance.choice((b"a=b", b"%", b"&&==", b"a[]=1", b"\xc3\xa9", b"x" * 2000, b"%00=%ff"))
    return target


def _headers(chance: random.Random) -> list[tuple[bytes, bytes]]:
    host = (
        b"localhost"
        if chance.random() < 0.95
        else chance.choice((b"evil.example", b"", b"[", b"a b", b"\xff", b"[::1]:x"))
    )
    kind = b"application/json"
    if chance.random() < 0.1:
        kind = chance.choice(
            (b"text/plain", b"", b"application/json; charset=utf-16", b"multipart/form-data", b"a/b/c", b"\xff", b";")
        )
    headers = [(b"host", host), (b"content-type", kind)]
    for _ in range(chance.choice((0, 0, 0, 1, 3))):
        headers.append(
            chance.choice(
                (
                    (
                        b"origin",
                        chance.choice((b"null", b"http://[", b"http://localhost", b"\xff", b"https://evil.example")),
                    ),
                    (
                        b"authorization",
                        chance.choice((b"Bearer", b"Basic YQ==", b"Bearer \xff\xfe", b"", b"Bearer " + b"x" * 500)),
                    ),
                    (b"accept", chance.choice((b"*/*", b"image/png", b"text/event-stream", b"\x80"))),
                    (b"cookie", b"a=" + b"b" * 500),
                    (b"content-encoding", chance.choice((b"gzip", b"br", b"nonsense"))),
                    (b"x-forwarded-host", b"evil.example"),
                    (b"x-request-id", b"%s%n" * 10),
                    (b"range", b"bytes=0-1,5-"),
                    (b"upgrade", b"websocket"),
                    (b"connection", chance.choice((b"upgrade", b"close", b"keep-alive", b"te, x"))),
                    (b"accept-language", b"\xe9"),
                    (b"host", b"other.example"),
                )
            )
        )
    if chance.random() < 0.02:
        headers += [(b"x-%d" % number, b"y" * chance.choice((1, 600))) for number in range(chance.choice((90, 500)))]
    if chance.random() < 0.01:
        headers.append((b"x-long", b"y" * 100_000))
    return headers


def _parts(chance: random.Random, body: bytes) -> list[bytes]:
    if not body or chance.random() < 0.7:
        return [body]
    cuts = sorted(chance.randrange(len(body)) for _ in range(chance.choice((1, 2, 5))))
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def _body(chance: random.Random, path: str) -> bytes:
    right = BODIES.get(path) or chance.choice(list(BODIES.values()))
    return chance.choice(_WAYS)(chance, json.loads(json.dumps(right)))


def _dumped(body: object) -> bytes:
    return json.dumps(body).encode()


def _wrong_value(chance: random.Random, body: dict[str, Any]) -> bytes:
    for _ in range(chance.choice((1, 1, 2))):
        body[
            chance.choice([*body, "suffix", "best_of", "echo", "bytes", "mode", "ignore_eos", "min_p", "\ud800", ""])
        ] = chance.choice(VALUES)
    return _dumped(body)


def _without(chance: random.Random, body: dict[str, Any]) -> bytes:
    for key in chance.sample(list(body), chance.randrange(len(body)) + 1):
        del body[key]
    return _dumped(body)


def _bytes_changed(chance: random.Random, body: dict[str, Any]) -> bytes:
    content = bytearray(_dumped(body))
    for _ in range(chance.choice((1, 2, 10))):
        at = chance.randrange(len(content))
        content[at : at + chance.choice((0, 1, 3))] = chance.randbytes(chance.choice((0, 1, 3)))
        content = content or bytearray(b" ")
    return bytes(content)


def _cut(chance: random.Random, body: dict[str, Any]) -> bytes:
    content = _dumped(body)
    return content[: chance.randrange(len(content))]


def _twice(chance: random.Random, body: dict[str, Any]) -> bytes:
    key = chance.choice(list(body))
    return _dumped(body)[:-1] + b", %s: %s}" % (_dumped(key), _dumped(chance.choice(VALUES)))


def _nested(chance: random.Random, body: dict[str, Any]) -> bytes:
    depth = chance.choice((50, 900, 1100, 20_000))
    opened, closed = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    deep = opened * depth + (b"1" + closed * depth if chance.random() < 0.7 else b"")
    return _dumped(body)[:-1] + b', "%s": %s}' % (chance.choice((b"prompt", b"other", b"messages")), deep)


def _endless(chance: random.Random, body: dict[str, Any]) -> bytes:
    number = chance.choice(
        (b"9" * 5000, b"1e400", b"-1e400", b"0." + b"1" * 5000, b"NaN", b"-Infinity", b"1e", b"+1", b"0x10", b"01")
    )
    return _dumped(body)[:-1] + b', "%s": %s}' % (
        chance.choice((b"seed", b"n", b"temperature", b"other", b"position")),
        number,
    )


def _encoded(chance: random.Random, body: dict[str, Any]) -> bytes:
    text = json.dumps(body, ensure_ascii=False)
    return text.encode(chance.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp500", "utf-7")), "replace")


def _large(chance: random.Random, body: dict[str, Any]) -> bytes:
    size = chance.choice((20_000, 99_000, 200_000))
    body[chance.choice(("prompt", "model", "stop", "other"))] = chance.choice(
        ("x" * size, ["a"] * (size // 5), "\x00" * (size // 6))
    )
    return _dumped(body)


def _other(chance: random.Random, body: dict[str, Any]) -> bytes:
    return chance.choice(
        (b"", b"null", b"[]", b'"a"', b"1", b"{}", b"{" * 9, b"\x00" * 20, b"a=b&c=d", b"<xml/>", chance.randbytes(60))
    )


_WAYS: Final[tuple[Callable[[random.Random, dict[str, Any]], bytes], ...]] = (
    *(_wrong_value, _wrong_value, _wrong_value, _without, _bytes_changed, _cut, _twice),
    *(_nested, _endless, _encoded, _large, _other),
)
