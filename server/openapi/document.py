"""The document: requests as FastAPI describes them, answers and errors as ours are."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from flexquant.server.openapi.answers import Error, schemas_of
from flexquant.server.openapi.errors import errors_of
from flexquant.server.openapi.operations import OPERATIONS, reference
from flexquant.server.security import OPEN_PATHS

_ENVELOPE: Final = {"application/json": {"schema": reference(Error)}}
_FOREIGN: Final = ("HTTPValidationError", "ValidationError")
"""FastAPI's own errors, which do not appear."""


def openapi_document(app: FastAPI, *, keyed: bool) -> dict[str, Any]:
    """The document about `app`.

    Args:
        app: With all its routes.
        keyed: Whether clients need a key.
    """
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in _FOREIGN:
        schemas.pop(name, None)
    answers = {kind for answer in OPERATIONS.values() for kind in (answer.model, answer.chunk) if kind is not None}
    schemas.update(schemas_of(Error, *sorted(answers, key=lambda kind: kind.__name__)))
    if keyed:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _describe(method, path, operation)
            if keyed and path in OPEN_PATHS:
                operation["security"] = []
    return document


def _describe(method: str, path: str, operation: dict[str, Any]) -> None:
    answer = OPERATIONS.get((method, path))
    responses = {"200": operation["responses"]["200"] if answer is None else answer.response()}
    for status, meaning in errors_of(path, operation).items():
        responses[str(status)] = {"description": meaning, "content": _ENVELOPE}
    operation["responses"] = responses
