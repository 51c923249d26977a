"""How routes of ``/v1`` are described: successes with their version, streams, errors."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from service.api.http.bodies import described
from service.contracts.schemas.openai import OpenAIError

JSON = "application/json"


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route: the errors it can answer with, those of the gate, and 500."""
    content = {JSON: {"schema": described(OpenAIError)}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({*statuses, 401, 403, 404, 429, 500})
    }


def completed(text: str) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route that a version answers, at once or as a stream."""
    version = {"description": "The version that answered.", "schema": {"type": "string"}}
    event = {"data": {"type": "string"}, "event": {"type": "string"}}
    stream = {"itemSchema": {"type": "object", "properties": event}}
    return {
        200: {
            "description": text,
            "headers": {"X-Model-Version": version},
            "content": {"text/event-stream": stream},
        },
        **errors(400, 412, 413, 503, 504, 507),
    }
