"""One HTTP request per call: retries, pages, event streams, refusals as exceptions."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from httpx_sse import EventSource
from pydantic import BaseModel

from jeep_core.errors import Coded
from service.contracts.schemas import JobOut, Problem
from service.contracts.schemas.openai import OpenAIError

M = TypeVar("M", bound=BaseModel)

KEY = re.compile(r"jeep_[A-Za-z0-9_-]+")
RETRIES = 4
"""Tries of a request that the service did not get or could not serve yet."""


class ApiError(Coded, Exception):
    """The service refused a request.  ``problem`` names the wrong fields and their errors."""

    def __init__(self, problem: Problem) -> None:
        lines = [f"{problem.status} {problem.code}: {problem.detail}"]
        for error in problem.errors:
            where = error.get("pointer") or error.get("parameter", "")
            lines.append(f"  {where}: {error.get('message', '')}")
        super().__init__("\n".join(lines))
        self.problem, self.code = problem, problem.code


class Transport:
    """Connections to one service, with the caller's API key."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        timeout: float = 60.0,
        api_key: str | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            timeout=httpx.Timeout(timeout, connect=10.0),
            headers=_authorization(api_key),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _model(self, model: type[M], method: str, url: str, **request: Any) -> M:
        return model.model_validate_json(self._request(method, url, **request).content)

    def _queued(self, url: str, body: Mapping[str, Any], key: str | None) -> JobOut:
        """Submit a job exactly once, with retries; a key is generated where none is given."""
        headers = {"Idempotency-Key": key or str(uuid4())}
        return self._model(JobOut, "POST", url, json=body, headers=headers, again=True)

    def _request(
        self, method: str, url: str, *, again: bool = False, **request: Any
    ) -> httpx.Response:
        """Send one request; repeat it after a lost connection where that is harmless."""
        tries = RETRIES if again or method == "GET" else 1
        for attempt in range(tries):
            try:
                response = self._http.request(method, url, **request)
                break
            except httpx.UnsupportedProtocol:  # it would be none the next time, too
                raise
            except httpx.TransportError:
                if attempt == tries - 1:
                    raise
                time.sleep(0.2 * 2**attempt)
        check(response)
        return response

    def _pages(self, url: str, params: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
        cursor: dict[str, str] = {}
        while True:
            page = self._request("GET", url, params={**(params or {}), **cursor}).json()
            yield from page["data"]
            if not page["has_more"]:
                return
            cursor = {"after": page["next"]}

    def _download(self, url: str, path: Path, params: Mapping[str, str] | None = None) -> int:
        """Write an answer to ``path``; return its size in bytes.

        The file appears under its name only when it is complete.
        """
        aside = path.with_name(path.name + ".part")
        try:
            with self._http.stream("GET", url, params=params) as response, aside.open("wb") as file:
                check(response)
                for chunk in response.iter_bytes():
                    file.write(chunk)
            size = aside.stat().st_size
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        return size

    @contextmanager
    def _stream(self, method: str, url: str, **request: Any) -> Iterator[EventSource]:
        request.setdefault("headers", {})["Accept"] = "text/event-stream"
        with self._http.stream(method, url, **request) as response:
            check(response)
            yield EventSource(response)

    def _reachable_before(self, deadline: float | None) -> bool:
        """Give a restarting service half a minute, at most until the deadline."""
        end = time.monotonic() + 30.0 if deadline is None else deadline
        while time.monotonic() < end:
            try:
                self._http.get("/livez")
            except httpx.TransportError:
                time.sleep(0.3)
            else:
                return True
        return False


def _authorization(api_key: str | None) -> dict[str, str]:
    """The header that carries a key.  Raises ValueError for a text that cannot be a key."""
    if api_key is None:
        return {}
    if not KEY.fullmatch(api_key):
        raise ValueError("this is no API key: one begins with jeep_ and has no spaces")
    return {"Authorization": f"Bearer {api_key}"}


def check(response: httpx.Response) -> None:
    """Raise `ApiError` for an answer that is not a success."""
    if response.is_success:
        return
    body = response.read()
    try:
        problem = _problem(response, body)
    except ValueError:
        problem = Problem(
            title=response.reason_phrase,
            status=response.status_code,
            detail=body[:500].decode(errors="replace"),
            code="not_a_problem",
            request_id=response.headers.get("X-Request-Id", ""),
        )
    raise ApiError(problem)


def _problem(response: httpx.Response, body: bytes) -> Problem:
    """The problem of an answer, which below /v1 has the shape of OpenAI's errors.

    Raises:
        ValueError: it is neither.
    """
    if not response.url.path.startswith("/v1/"):
        return Problem.model_validate_json(body)
    error = OpenAIError.model_validate_json(body).error
    return Problem(
        title=response.reason_phrase,
        status=response.status_code,
        detail=error.message,
        code=error.code,
        errors=error.errors,
        request_id=error.request_id,
    )


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def segment(text: str) -> str:
    """``text`` as one segment of a path."""
    return quote(text, safe="")
