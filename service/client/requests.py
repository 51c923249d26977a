"""Parts of requests: what both clients send, and the states of jobs that they hear of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import httpx
from httpx_sse import ServerSentEvent

from jeep_core.spec.naming import known_names
from service.client.errors import ApiError, InvalidAddress, InvalidArgument
from service.contracts.jobs import JobStatus, Progress
from service.contracts.schemas import EditOptions, GeneratedToken, GenerateResult, Problem

FactDict = Mapping[str, Any]
OnProgress = Callable[[JobStatus, Progress], None]
KEY = re.compile(r"jeep_[A-Za-z0-9_-]+")
FILE = "application/octet-stream"
JSON_PARAMS = ("hparams", "guards", "activate")
"""Fields of an edit that are JSON where they are query parameters."""
Streamed = tuple[Literal["token"], GeneratedToken] | tuple[Literal["result"], GenerateResult]
"""An event of a stream of tokens."""
LAST_PORT = 65535
ANSWER_S = 150.0
"""Longest silence in calls that a version answers: where one worker is lost a second one is asked,
each has ``JEEP_GENERATE_TIMEOUT_S`` (60), and a head that is not there yet is waited for.
"""
OPENAI_ANSWER_S = 300.0
"""The same for ``/v1``, which also waits for a successor of the last worker and asks it, too."""


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
    """The header that carries a key.

    Raises:
        InvalidArgument: a text that cannot be a key.
    """
    if api_key is None:
        return {}
    if not isinstance(api_key, str) or not KEY.fullmatch(api_key):
        raise InvalidArgument("this is no API key: one begins with jeep_ and has no spaces")
    return {"Authorization": f"Bearer {api_key}"}


def address(base_url: str) -> httpx.URL:
    """The address of a service.

    Raises:
        InvalidAddress: it has no ``http://`` or ``https://``, no host, or a port beyond 65535.
    """
    how = f"{base_url!r} is no address of a service: give one like http://127.0.0.1:8000"
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise InvalidAddress(f"{how} ({error})") from error
    whole = url.scheme in ("http", "https") and url.host and "%" not in url.host
    if not whole or any(map(str.isspace, url.host)) or (url.port or 0) > LAST_PORT:
        raise InvalidAddress(how)
    return url


def fact_dicts(facts: Iterable[FactDict]) -> list[dict[str, Any]]:
    """The facts of a request.

    Raises:
        InvalidArgument: one fact instead of a list, or one that is no mapping.
    """
    if isinstance(facts, (str, bytes, Mapping)) or not isinstance(facts, Iterable):
        raise InvalidArgument("facts: give a list of facts, also of a single one: [fact]")
    found = []
    for i, fact in enumerate(facts):
        try:
            found.append(dict(fact))
        except (TypeError, ValueError):
            kind = type(fact).__name__
            how = "give a mapping, as {'subject': …, 'prompt': …, 'target_new': …}"
            raise InvalidArgument(f"facts[{i}]: {how}, not a {kind}") from None
    return found


def with_body(request: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a request, in which ``json`` has become the bytes that are sent.

    Raises:
        InvalidArgument: a field has a value that JSON cannot carry.
    """
    if "json" not in request:
        return dict(request)
    body = request["json"]
    try:
        text = _json(body)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidArgument(_wrong_field(body) or f"this is no JSON: {error}") from None
    headers = {"Content-Type": "application/json", **request.get("headers", {})}
    others = {name: value for name, value in request.items() if name != "json"}
    return {**others, "headers": headers, "content": text.encode()}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _wrong_field(body: Any) -> str:
    """The first field that JSON cannot carry, with the reason."""
    for name, value in body.items() if isinstance(body, Mapping) else ():
        try:
            _json(value)
        except (ValueError, TypeError, RecursionError) as error:
            return f"{name}: JSON has no such value: {str(value)[:60]} ({error})"
    return ""


def edit_params(
    options: Mapping[str, Any], *, format: str, limit: int | None, drop_bad: bool
) -> dict[str, Any]:
    """The query parameters of an edit whose body is a file.

    Raises:
        InvalidArgument: an option that there is not, or a value that JSON cannot carry.
    """
    known = EditOptions.model_fields.keys()
    for name in options:
        if name == "exact":
            raise InvalidArgument('exact is a hyper-parameter: give hparams={"exact": True}')
        if name not in known:
            others = ("format", "limit", "drop_bad")
            names = known_names(name, (*others, *known))
            raise InvalidArgument(f"{name}: there is no such option; {names}")
    coded = {name: value for name, value in given(options).items() if name in JSON_PARAMS}
    if wrong := _wrong_field(coded):
        raise InvalidArgument(wrong)
    as_json = {name: _json(value) for name, value in coded.items()}
    asked = {"format": format, "limit": limit, "drop_bad": drop_bad or None}
    return given({**asked, **options, **as_json})


def no_dry_run(options: Mapping[str, Any], instead: str) -> None:
    """Refuse ``dry_run`` among the options of an edit, which is a query parameter.

    Raises:
        InvalidArgument: it is there; ``instead`` says what to do.
    """
    if "dry_run" in options:
        raise InvalidArgument(f"dry_run is a query parameter of POST /edits; {instead}")


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def segment(text: str) -> str:
    """``text`` as one segment of a path.

    Raises:
        InvalidArgument: it is no text, or an empty one, which would be another path.
    """
    if not isinstance(text, str) or not text:
        raise InvalidArgument(f"an id or a name is a text that is not empty, not {text!r}")
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
