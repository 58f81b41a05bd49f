"""The worker's side of the pipe: JSON lines in, JSON lines out. Imports nothing heavy."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

Handler = Callable[..., object]


def serve(handlers: Mapping[str, Handler]) -> None:
    """Answer requests until stdin ends: {"do": name, ...arguments} -> {"ok": result} or {"error": text}.

    While no request is there the worker sleeps in a read: it takes nothing from whoever is measured meanwhile.
    """
    # Libraries print where they like: file descriptor 1 becomes stderr, and the answers get a descriptor of their own.
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            request: dict[str, Any] = json.loads(line)
            name = request.pop("do")
            try:
                answer: dict[str, Any] = {"ok": handlers[name](**request)}
            except Exception as error:  # the bench shows it; the worker may go on
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
