"""The Python client: one object per daemon, plain methods, typed answers."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, overload

import httpx

from flexquant.clients.errors import UnexpectedAnswerError
from flexquant.clients.exchange import api_error, parse, refusal, shaped, speaking
from flexquant.clients.load import Load
from flexquant.clients.types import Answer, Elastic, Event, Model, Piece

DEFAULT_URL: Final = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT: Final = httpx.Timeout(600.0, connect=5.0)
"""Seconds. An answer that is not streamed may take minutes; a connection may not."""
EVENT_TIMEOUT: Final = httpx.Timeout(45.0, connect=5.0)
"""Seconds. The daemon says that it is still there every 15 s: an event stream that is silent for longer is dead."""

T = TypeVar("T")


class Client:
    """Talks to one daemon.

        with Client() as client:
            print(client.chat([{"role": "user", "content": "Hello"}]).text)
            for piece in client.completions("Once upon", stream=True, max_tokens=50):
                print(piece.text, end="", flush=True)
            client.set_target(bytes=2_000_000_000, ttl_seconds=600)

    One object may be used by several threads. Errors are those of `flexquant.clients.errors`.

    Args:
        url: Where the daemon listens; default: FLEXQUANT_URL, else http://127.0.0.1:8000.
        api_key: Default: FLEXQUANT_API_KEY, else none.
        timeout: Seconds for each step of an exchange (connect, send, next bytes); None waits for ever.
        transport: Replaces the network, for tests.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | httpx.Timeout | None = DEFAULT_TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = (url or os.environ.get("FLEXQUANT_URL") or DEFAULT_URL).rstrip("/")
        key = api_key or os.environ.get("FLEXQUANT_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with speaking(self.url):
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    # Generating ------------------------------------------------------------------------------------------------

    @overload
    def completions(self, prompt: str, *, stream: Literal[False] = False, **fields: Any) -> Answer: ...
    @overload
    def completions(self, prompt: str, *, stream: Literal[True], **fields: Any) -> Generator[Piece, None, None]: ...
    def completions(self, prompt: str, *, stream: bool = False, **fields: Any) -> Answer | Generator[Piece, None, None]:
        """Continue `prompt`.

        Args:
            prompt: The text to continue.
            stream: Whether to get the answer piece by piece. The request is sent when the iteration begins;
                leaving it early and closing it cancels the request.
            fields: Fields of the API: max_tokens (default 16), temperature, top_k, top_p, seed, stop, ...
        """
        return self._generate("/v1/completions", {"prompt": prompt, **fields}, stream)

    @overload
    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, stream: Literal[False] = False, **fields: Any
    ) -> Answer: ...
    @overload
    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, stream: Literal[True], **fields: Any
    ) -> Generator[Piece, None, None]: ...
    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, stream: bool = False, **fields: Any
    ) -> Answer | Generator[Piece, None, None]:
        """Answer a conversation; arguments as for `completions`.

        Args:
            messages: Each with "role" and "content".
            stream: Whether to get the answer piece by piece.
            fields: Further fields of the API.
        """
        return self._generate("/v1/chat/completions", {"messages": list(messages), **fields}, stream)

    # The daemon ------------------------------------------------------------------------------------------------

    def models(self) -> list[Model]:
        """What is served."""
        return self._get("/v1/models", lambda data: [Model.from_json(entry) for entry in data["data"]])

    def health(self) -> bool:
        """Whether the daemon lives.

        Raises:
            UnreachableError: Nothing answers at all.
        """
        return self._is_well("/health")

    def ready(self) -> bool:
        """Whether it takes requests; False while it loads, stops, or refuses new work for want of memory.

        Raises:
            UnreachableError: Nothing answers at all.
        """
        return self._is_well("/ready")

    def elastic(self) -> Elastic:
        """Position, footprint, memory, and the last decision."""
        return self._get("/v1/elastic", Elastic.from_json)

    def set_target(
        self,
        *,
        position: int | None = None,
        bytes: int | None = None,  # noqa: A002  # the API's own word
        mode: Literal["auto"] | None = None,
        worst_position: int | None = None,
        ttl_seconds: float | None = None,
    ) -> Elastic:
        """Tell the daemon where the model shall be; give exactly one of the first four.

        Answers when the move has been carried out. Look at `override`: critical memory comes before a pin.

        Args:
            position: Hold this position.
            bytes: Hold the best position whose weights take at most so many bytes.
            mode: "auto" follows the memory again.
            worst_position: Never go beyond this position.
            ttl_seconds: How long it holds.
        """
        wish = {
            "position": position,
            "bytes": bytes,
            "mode": mode,
            "worst_position": worst_position,
            "ttl_seconds": ttl_seconds,
        }
        body = {name: value for name, value in wish.items() if value is not None}
        return self._post("/v1/elastic/target", body, Elastic.from_json)

    def events(self) -> Generator[Event, None, None]:
        """Decisions and moves as they happen, until the daemon stops; the first event is the present state.

        The request is sent when the iteration begins; closing it ends the connection.
        """
        with speaking(self.url), self._http.stream("GET", "/v1/elastic/events", timeout=EVENT_TIMEOUT) as response:
            if response.is_error:
                response.read()
                raise refusal(response)
            kind = ""
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield shaped(partial(Event.from_json, kind), parse(value, self.url), self.url)

    def load(self) -> Load:
        """What the daemon is busy with."""
        with speaking(self.url):
            response = self._http.get("/metrics")
        if response.is_error:
            raise refusal(response)
        return shaped(Load.from_metrics, response.text, self.url)

    def trace(self) -> Iterator[str]:
        """What the daemon's controller saw and did in the last minutes: lines for `flexquant simulate`.

        The request is sent when the iteration begins.
        """
        with speaking(self.url), self._http.stream("GET", "/v1/elastic/trace") as response:
            if response.is_error:
                response.read()
                raise refusal(response)
            yield from response.iter_lines()

    # Exchanges -------------------------------------------------------------------------------------------------

    def _generate(self, path: str, body: Mapping[str, Any], stream: bool) -> Answer | Generator[Piece, None, None]:
        if stream:
            return self._stream(path, {**body, "stream": True, "stream_options": {"include_usage": True}})
        return self._post(path, body, Answer.from_json)

    def _stream(self, path: str, body: Mapping[str, Any]) -> Generator[Piece, None, None]:
        with speaking(self.url), self._http.stream("POST", path, json=body) as response:
            if response.is_error:
                response.read()
                raise refusal(response)
            for line in response.iter_lines():
                if not line.startswith("data:"):
                    continue  # comments keep the connection alive
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                chunk = parse(data, self.url)
                if "error" in chunk:
                    raise api_error(chunk)
                piece = shaped(Piece.from_json, chunk, self.url)
                if piece.text or piece.finish_reason or piece.usage:
                    yield piece
        raise UnexpectedAnswerError(f"{self.url}: the stream ended before its end was marked")

    def _get(self, path: str, make: Callable[[Mapping[str, Any]], T]) -> T:
        with speaking(self.url):
            response = self._http.get(path)
        return self._answer(response, make)

    def _post(self, path: str, body: Mapping[str, Any], make: Callable[[Mapping[str, Any]], T]) -> T:
        with speaking(self.url):
            response = self._http.post(path, json=body)
        return self._answer(response, make)

    def _answer(self, response: httpx.Response, make: Callable[[Mapping[str, Any]], T]) -> T:
        if response.is_error:
            raise refusal(response)
        return shaped(make, parse(response.text, self.url), self.url)

    def _is_well(self, path: str) -> bool:
        with speaking(self.url):
            return self._http.get(path).is_success
