"""Talks to a FlexQuant daemon over HTTP.

from flexquant.clients import Client

with Client() as client:
    print(client.elastic().position)
"""

from flexquant.clients.client import Client
from flexquant.clients.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    ClientError,
    NoAnswerError,
    NotFoundError,
    OverloadedError,
    UnexpectedAnswerError,
    UnreachableError,
)
from flexquant.clients.load import Load
from flexquant.clients.types import Answer, Decision, Elastic, Event, Model, Piece, Quality, Reserves, Source, Usage

__all__ = [
    "Answer",
    "ApiError",
    "AuthenticationError",
    "BadRequestError",
    "Client",
    "ClientError",
    "Decision",
    "Elastic",
    "Event",
    "Load",
    "Model",
    "NoAnswerError",
    "NotFoundError",
    "OverloadedError",
    "Piece",
    "Quality",
    "Reserves",
    "Source",
    "UnexpectedAnswerError",
    "UnreachableError",
    "Usage",
]
