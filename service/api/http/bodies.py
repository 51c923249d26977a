"""Request bodies: strict JSON into a model, or facts line by line."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from service.api.http.problems import (
    ApiProblem,
    field_error,
    invalid,
    parameter_error,
    validation_errors,
)

M = TypeVar("M", bound=BaseModel)

JSON_TYPE = re.compile(r"application/([\w.-]+\+)?json")
JSON_LINES = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)


DESCRIBED: dict[str, type[BaseModel]] = {}
"""Models of bodies that routes read themselves, by the name of their schema."""


def media_type(request: Request) -> str:
    """The content type without its parameters, in lower case; empty if there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json_lines(request: Request) -> bool:
    """Whether the body is one JSON object per line."""
    return media_type(request) in JSON_LINES


async def read_body(request: Request) -> bytes:
    """The body, without a byte-order mark: some editors write one before every text in UTF-8."""
    return (await request.body()).removeprefix(BOM_UTF8)


async def read_json(request: Request, optional: bool = False, otherwise: str = "") -> Any:
    """The body as JSON; an empty body is ``{}`` where it is optional.

    ``otherwise``: an alternative for a body of another type, added to the message.

    Raises:
        ApiProblem: 415 for another content type, 400 for malformed JSON.
    """
    body = await read_body(request)
    if optional and not body.strip():
        return {}
    kind = media_type(request)
    if kind and not JSON_TYPE.fullmatch(kind):
        detail = f"the body must be application/json, not {kind}{otherwise}"
        error = parameter_error("Content-Type", "unsupported_media_type", detail)
        raise ApiProblem("unsupported_media_type", detail, [error])
    return parse_json(body)


def parse_json(data: bytes | str, where: str = "") -> Any:
    """JSON with UTF-8 text; NaN and Infinity are left to the field's own validation.

    Raises:
        ApiProblem: 400 with the position of the mistake.
    """
    try:
        return from_json(data, allow_inf_nan=True)
    except ValueError as error:
        detail = f"malformed JSON: {error}"
        raise ApiProblem(
            "malformed_json", detail, [field_error(where, "malformed_json", detail)]
        ) from None


async def read_model(request: Request, model: type[M], optional: bool = False) -> M:
    """The body as ``model``.

    Raises:
        ApiProblem: 415, 400 as `read_json`; 422 with a pointer per wrong field.
    """
    return validate(model, await read_json(request, optional))


def validate(model: type[M], data: Any) -> M:
    """``data`` as ``model``.

    Raises:
        ApiProblem: 422 with a pointer per wrong field.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid(validation_errors(model, error, data)) from None


def json_lines(body: bytes) -> Iterator[tuple[int, Any]]:
    """``(line number, value)`` for every line that is not blank; numbers start at 1.

    Raises:
        ApiProblem: 400 naming the malformed line.
    """
    for number, line in enumerate(body.split(b"\n"), start=1):
        if line.strip():
            yield number, parse_json(line, f"/lines/{number}")


def json_request_body(
    model: type[BaseModel], optional: bool = False, lines: type[BaseModel] | None = None
) -> dict[str, Any]:
    """``openapi_extra`` of a route that reads a body of ``model``, or one of ``lines`` per line."""
    content = {"application/json": {"schema": described(model)}}
    if lines is not None:
        content["application/x-ndjson"] = {"schema": described(lines)}
    return {"requestBody": {"required": not optional, "content": content}}


def described(model: type[BaseModel]) -> dict[str, str]:
    """A reference to a model's schema, which the description then contains."""
    DESCRIBED[model.__name__] = model
    return {"$ref": f"#/components/schemas/{model.__name__}"}
