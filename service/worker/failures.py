"""From an exception to the error that a client gets, for both jobs and requests."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from jeep_core.errors import (
    Coded,
    FieldProblem,
    JeepError,
    ModelNotFetched,
    is_out_of_memory,
    is_passing,
)
from service.contracts.jobs import JobError
from service.queue import QueueError, QueueFailure
from service.settings import EXIT_AGAIN, EXIT_CONFIG, SettingsError
from service.store import (
    HeadMoved,
    NotFetched,
    StaleFence,
    StoreError,
    StoreReplaced,
    denial,
    is_denied,
    is_disk_full,
)


class Refused(Coded, Exception):
    """The job ends as failed with this error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Stopping(Coded, Exception):
    """The worker is stopping: a job stays queued and runs again, a request is not answered."""

    code = "stopping"


class GuardFailed(Coded, Exception):
    """A figure of an edit is beyond its limit; ``errors`` has every guard that tripped."""

    code = "guard_failed"

    def __init__(self, errors: list[dict[str, str | float]]) -> None:
        super().__init__("; ".join(str(one["message"]) for one in errors))
        self.errors = errors


WITH_MESSAGE = (JeepError, StoreError, QueueError, Refused, Stopping, GuardFailed)
"""Exceptions whose code and sentence are made to be shown."""


def is_foreseen(error: BaseException) -> bool:
    """Whether `failure` has a message for it; other errors are logged with their traceback."""
    known = isinstance(error, (*WITH_MESSAGE, ValidationError))
    of_the_machine = is_disk_full(error) or is_out_of_memory(error) or _is_passing_alone(error)
    return known or of_the_machine or is_denied(error)


def failure(error: BaseException, root: Path | None = None) -> JobError:
    """Code, sentence and pointers for the exception that ended a job or a request.

    ``root`` is the store's folder, by which files of it are named.
    """
    if is_out_of_memory(error):
        return JobError(code="out_of_memory", message=_out_of_memory(error))
    if is_disk_full(error):
        return JobError(code="disk_full", message=f"the store's disk is full: {error}")
    if isinstance(error, HeadMoved):
        message = f"{error}: it moved in between, nothing was changed"
        return JobError(code=error.code, message=message)
    if isinstance(error, StaleFence):
        return JobError(code=error.code, message=f"another worker has taken over ({error})")
    if isinstance(error, WITH_MESSAGE):
        return JobError(code=error.code, message=str(error), errors=_errors(error))
    if _is_passing_alone(error):
        message = f"this machine, its disk or a network could not do it ({error}): try again"
        return JobError(code="temporarily_unavailable", message=message)
    if is_denied(error):
        return JobError(code="permission_denied", message=denial(error, root))
    if isinstance(error, ValidationError):
        return JobError(code="failed", message=str(error))
    return JobError(code="internal_error", message=f"{type(error).__name__}: {error}")


def exit_code(error: BaseException) -> int | None:
    """The exit code of a worker that this error keeps from serving; None: nobody has foreseen it.

    `EXIT_CONFIG` is final, so it is only for what somebody must change.
    """
    if isinstance(error, (NotFetched, StoreReplaced)):
        return EXIT_AGAIN
    if is_passing(error) or isinstance(error, (ModelNotFetched, StaleFence, QueueFailure)):
        return 1
    foreseen = isinstance(error, (StoreError, JeepError, SettingsError, OSError))
    return EXIT_CONFIG if foreseen else None


def _is_passing_alone(error: BaseException) -> bool:
    return isinstance(error, OSError) and is_passing(error)


def _errors(error: BaseException) -> list[dict[str, str | float]]:
    """The errors of an exception about single fields."""
    problems = [vars(p) for p in getattr(error, "problems", ()) if isinstance(p, FieldProblem)]
    return [*problems, *getattr(error, "errors", ())]


def _out_of_memory(error: BaseException) -> str:
    [first, *_] = str(error).splitlines() or [""]
    advice = (
        "fewer facts or prompts at once, or a lower JEEP_EDIT_MEMORY_MB or "
        "JEEP_FACTOR_MEMORY_MB, need less"
    )
    return f"there was not enough memory; {advice} ({first})"
