"""The HTTP application over the fake model, without sockets."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import FastAPI

from flexquant.engine.grammar import Grammars
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.app import create_app
from flexquant.server.chat_template import ChatTemplate
from flexquant.server.control_loop import Controller
from flexquant.server.controller.parameters import Parameters
from flexquant.server.controller.sample import MemoryReading
from flexquant.server.counts import Counts
from flexquant.server.daemon_state import DaemonState, ServedModel
from flexquant.server.elastic_facade import ElasticFacade
from flexquant.server.elastic_state import Quality
from flexquant.server.engine_thread import EngineThread
from flexquant.server.keys import load_keys
from flexquant.server.memory_gate import MemoryGate
from flexquant.server.monitor import Monitor
from flexquant.server.settings import load_settings
from support.fake_model import DOCS_LLAMA, FakeModel

GIB = 2**30
CONTEXT = 512


class PlentyOfMemory:
    """A probe that always says the same."""

    name = "plenty"

    def read(self) -> list[MemoryReading]:
        return [MemoryReading(self.name, available=12 * GIB, total=16 * GIB)]


@dataclass(frozen=True, slots=True)
class FakeDaemon:
    """The application and what is behind it."""

    app: FastAPI
    model: FakeModel
    engine: EngineThread
    tokenizer: Tokenizer
    gate: MemoryGate

    def client(self, **headers: str) -> httpx.AsyncClient:
        """A client that reaches the application directly."""
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://127.0.0.1:8000", headers=headers
        )


@contextmanager
def fake_daemon(
    *arguments: str, chat_template: bool | str = True, tokenizer_folder: Path = DOCS_LLAMA
) -> Iterator[FakeDaemon]:
    """An application whose engine thread runs.

    Args:
        arguments: Settings of `flexquant-serve`.
        chat_template: The model's own, another one, or none.
        tokenizer_folder: Has another tokenizer of as many tokens.
    """
    settings = load_settings(["--model", "demo", *arguments])
    model, tokenizer, counts, gate = FakeModel(), Tokenizer.open(tokenizer_folder), Counts(), MemoryGate()
    engine = EngineThread(
        model, tokenizer, parallel=settings.parallel, max_queue=settings.max_queue, gate=gate, counts=counts
    )
    quality = [Quality(10.0 + k, 0.1 * k) for k in range(4)]
    facade = ElasticFacade(model, quality, lambda: engine.seconds_per_token, counts=counts)
    controller = Controller(facade, Monitor([PlentyOfMemory()]), Parameters(), gate=gate)
    template = ChatTemplate.of(tokenizer)
    if isinstance(chat_template, str):
        template = ChatTemplate(chat_template, {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token})
    served = ServedModel(
        id="docs-llama",
        aliases=frozenset({"demo", *settings.alias}),
        created=1_700_000_000,
        build="fqtest",
        context=CONTEXT,
        vocab_size=model.config.vocab_size,
        tokenizer=tokenizer,
        chat_template=template if chat_template else None,
        modules_by_level=lambda position: {"8.0": 3 - position, "4.0": position},
        listed=("docs-llama", *settings.alias),
        any_name=settings.accept_any_model,
        grammars=Grammars(tokenizer, model.config.vocab_size, model.config.eos_ids),
    )
    engine.start()
    try:
        yield FakeDaemon(
            create_app(DaemonState(served, engine, controller, counts), settings, load_keys(settings)),
            model,
            engine,
            tokenizer,
            gate,
        )
    finally:
        model.gate.set()
        engine.stop("the test has ended")
        engine.join()
