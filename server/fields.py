"""What all parts of requests have in common."""

from pydantic import BaseModel, ConfigDict, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError, ValidationError


class Fields(BaseModel):
    """Base of all request parts: exact JSON types, unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def said(message: str) -> WrapValidator:
    """Replace pydantic's list of failed alternatives by one sentence for people."""

    def validate(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("wrong_type", message) from error

    return WrapValidator(validate)
