"""Base of everything that requests are made of."""

from pydantic import BaseModel, ConfigDict


class Fields(BaseModel):
    """A part of a request: exact JSON types, unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
