"""The suites by name, in the order in which they run."""

from collections.abc import Callable, Mapping
from typing import Final

from bench.row import Row
from bench.session import Session
from bench.suites import (
    any_precision,
    batch,
    context,
    decode,
    load,
    memory,
    nested,
    nested_reaction,
    prefill,
    pressure,
    reaction,
    serve,
    swap,
)

SUITES: Final[Mapping[str, Callable[[Session], list[Row]]]] = {
    "decode": decode.run,
    "prefill": prefill.run,
    "batch": batch.run,
    "context": context.run,
    "load": load.run,
    "serve": serve.run,
    "memory": memory.run,
    "swap": swap.run,
    "nested": nested.run,
    "any-precision": any_precision.run,
    "reaction": reaction.run,
    "nested-reaction": nested_reaction.run,
    "pressure": pressure.run,
}
