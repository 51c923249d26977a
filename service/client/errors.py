"""The exceptions of the client.

ClientError
├── ApiError         the service has refused a request, and says why
├── InvalidAddress   ``base_url`` is no address
├── InvalidArgument  a value that no request can carry, or a malformed API key; nothing was sent
├── ClientClosed     the client was used after it had been closed
├── NothingLost      ``strengthen_export``: the export holds every fact that could be edited again
├── Unreachable      there was no answer: no connection, a broken one, a time-out of the network
├── BadAnswer        an answer that is none of this service's, or of another release
├── JobTimeout       a job has not ended within the time that the caller gave it
├── NotReady         the service was not ready within the time that the caller gave it
└── DamagedDownload  a file arrived with another hash, twice

``except ClientError`` is enough for whoever does not tell them apart.  Beside them there is only
``OSError``, for files of this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import JSONDecodeError

import httpx
from httpx_sse import SSEError
from pydantic import ValidationError

from jeep_core.errors import Coded, reason_of
from service.contracts.schemas import Problem
from service.contracts.schemas.openai import OpenAIError


class ClientError(Coded, Exception):
    """Base of everything that a call raises on purpose; ``code`` is stable."""

    code = "client_error"


class ApiError(ClientError):
    """The service refused a request.

    ``problem`` is its whole answer.  The parts that programs ask for are attributes: ``status``
    (HTTP), ``code`` (stable, see docs/using.md), ``detail`` (a sentence), ``errors`` (for every
    wrong field its ``pointer`` or ``parameter`` and a ``message``), ``codes`` (the code and those
    of all errors), ``request_id`` (as in the service's log) and ``retry_after``: seconds after
    which another try is worth it, None if the service says nothing of it.
    """

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        lines = [f"{problem.status} {problem.code}: {problem.detail}"]
        told = [_told(error) for error in problem.errors]
        # a few errors are the detail, or are told in it
        if any(one not in problem.detail for one in told):
            lines += [f"  {one}" for one in told]
        super().__init__("\n".join(lines))
        self.problem, self.code, self.retry_after = problem, problem.code, retry_after

    @property
    def status(self) -> int:
        """The HTTP status; in the middle of a stream the one that it would have had."""
        return self.problem.status

    @property
    def detail(self) -> str:
        """A sentence that says what is wrong."""
        return self.problem.detail

    @property
    def errors(self) -> list[dict[str, str]]:
        """For every wrong field its ``pointer`` or ``parameter``, a ``code`` and a ``message``."""
        return self.problem.errors

    @property
    def codes(self) -> frozenset[str]:
        """The problem's code with those of its errors: ``"unknown_version" in error.codes``.

        A name that is unknown is the whole problem where it is part of the path, and one wrong
        field among others where it is in the body.
        """
        found = (error.get("code") for error in self.errors)
        return frozenset({self.code, *(code for code in found if code)})

    @property
    def request_id(self) -> str:
        """The request's id, as the service's log has it."""
        return self.problem.request_id


def _told(error: Mapping[str, str]) -> str:
    """One wrong field with what is wrong; the field is left out where it is the whole body."""
    where = error.get("pointer") or error.get("parameter", "")
    message = error.get("message", "")
    return f"{where}: {message}" if where else message


class InvalidAddress(ClientError, ValueError):
    """The address of the service is none."""

    code = "invalid_address"


class InvalidArgument(ClientError, ValueError):
    """A value that no request can carry, or a malformed API key; nothing was sent."""

    code = "invalid_argument"


class ClientClosed(ClientError, RuntimeError):
    """The client was used after it had been closed, or was closed in the middle of a call."""

    code = "client_closed"


class NothingLost(ClientError, ValueError):
    """An export that was to be strengthened holds every fact that could be edited again."""

    code = "nothing_lost"


class Unreachable(ClientError, httpx.TransportError):
    """The service gave no answer, after as many tries as the call may make.

    Also an ``httpx.TransportError``, for programs that know httpx; ``__cause__`` is httpx's own.
    """

    code = "unreachable"


class BadAnswer(ClientError, ValueError):
    """An answer that cannot be read: no jeep service is there, or one of another release."""

    code = "bad_answer"


class JobTimeout(ClientError, TimeoutError):
    """A job did not end in the time the caller gave it.  It goes on."""

    code = "job_timeout"


class NotReady(ClientError, TimeoutError):
    """The service was not ready in the time the caller gave it."""

    code = "not_ready"


class DamagedDownload(ClientError):
    """A file arrived with another hash, twice."""

    code = "corrupt_file"


@contextmanager
def translated() -> Iterator[None]:
    """Raise what httpx and pydantic say of a connection and an answer as the client's own errors.

    Raises:
        InvalidAddress: for a text that is no address.
        Unreachable: for httpx's error of a connection.
        BadAnswer: for an answer that is no JSON, or not the expected one.
    """
    try:
        yield
    except ClientError:
        raise
    except (ValidationError, JSONDecodeError, httpx.DecodingError, SSEError) as error:
        raise BadAnswer(
            f"what answers is no jeep service, or one of another release: {reason_of(error)}"
        ) from error
    except httpx.InvalidURL as error:
        raise InvalidAddress(f"this is no address: {reason_of(error)}") from error
    except httpx.TransportError as error:  # as SSEError is, too
        raise Unreachable(f"{_asked(error)}: {reason_of(error)}") from error


def _asked(error: httpx.TransportError) -> str:
    """The service that gave no answer, without the path and without a password."""
    try:
        url = error.request.url
    except RuntimeError:  # httpx names no request: a stream has broken off
        return "the connection broke off"
    return f"no answer from {url.scheme}://{url.netloc.decode('ascii', 'replace')}"


def refusal(response: httpx.Response, body: bytes) -> ApiError:
    """The exception for an answer that is not a success, of which ``body`` has been read."""
    try:
        problem = _problem(response, body)
    except ValueError:
        problem = Problem(
            title=response.reason_phrase,
            status=response.status_code,
            detail=_redirect(response) or body[:500].decode(errors="replace"),
            code="not_a_problem",
            request_id=response.headers.get("X-Request-Id", ""),
        )
    return ApiError(problem, _seconds(response.headers))


def _redirect(response: httpx.Response) -> str:
    """A sentence where another address is named, else "": a key is sent to no other."""
    if not response.has_redirect_location:
        return ""
    return f"this address is another one now: give that of {response.headers['Location'][:200]}"


def _seconds(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks the client to wait; a date, which the service never sends, is
    taken for none.
    """
    try:
        return float(headers.get("Retry-After", ""))
    except ValueError:
        return None


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
