"""Helpers shared by suites and edits that read a file of records."""

from __future__ import annotations

from jeep_core.suites import AUTO, FORMATS, RecordProblem
from service.api.http.problems import field_error, invalid, parameter_error


def check_format(format: str | None) -> None:
    """Refuse an unknown format.

    Raises:
        ApiProblem: 422.
    """
    if format is not None and format not in (*FORMATS, AUTO):
        message = f"must be one of {AUTO}, {', '.join(FORMATS)}"
        raise invalid([parameter_error("format", "unknown_format", message)])


def located(problem: RecordProblem) -> dict[str, str]:
    """A record's problem with a pointer to the line where it begins; one line may hold them all."""
    field = f"/{problem.field}" if problem.field else ""
    which = "" if problem.record is None else f"record {problem.record}: "
    pointer = f"/lines/{problem.line}{field}"
    return field_error(pointer, problem.code, f"{which}{problem.message}")
