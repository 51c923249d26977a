"""Parts of requests: what both clients send, and the states of jobs that they hear of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from httpx_sse import ServerSentEvent

from service.client.errors import ApiError
from service.contracts.jobs import JobStatus, Progress
from service.contracts.schemas import GeneratedToken, GenerateResult, Problem

FactDict = Mapping[str, Any]
OnProgress = Callable[[JobStatus, Progress], None]
KEY = re.compile(r"jeep_[A-Za-z0-9_-]+")
FILE = "application/octet-stream"
JSON_PARAMS = ("hparams", "guards", "activate")
"""Fields of an edit that are JSON where they are query parameters."""
STREAMED: Mapping[str, type[GeneratedToken] | type[GenerateResult]] = {
    "token": GeneratedToken,
    "result": GenerateResult,
}


class JobState(NamedTuple):
    """A job as its events show it."""

    status: JobStatus
    progress: Progress

    def after(self, event: ServerSentEvent) -> JobState:
        """The state after one more event.

        Raises:
            ApiError: the service has ended the stream with an error.
        """
        data = said_by(event)
        if event.event == "progress":
            return self._replace(progress=Progress.model_validate(data))
        if event.event == "status":
            return self._replace(status=JobStatus(data["status"]))
        return self


def said_by(event: ServerSentEvent) -> Any:
    """The data of an event.

    Raises:
        ApiError: it is an error, with which the service ends a stream.
    """
    data = json.loads(event.data)
    if event.event == "error":
        raise ApiError(Problem.model_validate(data))
    return data


def authorization(api_key: str | None) -> dict[str, str]:
    """The header that carries a key.  Raises ValueError for a text that cannot be a key."""
    if api_key is None:
        return {}
    if not KEY.fullmatch(api_key):
        raise ValueError("this is no API key: one begins with jeep_ and has no spaces")
    return {"Authorization": f"Bearer {api_key}"}


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def segment(text: str) -> str:
    """``text`` as one segment of a path."""
    return quote(text, safe="")


def generate_body(
    prompts: str | Sequence[str] | None,
    version: str | Sequence[str],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The body of ``POST /generate``: one prompt or several, or none beside messages."""
    asked: dict[str, Any] = {}
    if prompts is not None:
        asked = {"prompt": prompts} if isinstance(prompts, str) else {"prompts": list(prompts)}
    versions = version if isinstance(version, str) else list(version)
    return {**asked, "version": versions, **given(options)}
