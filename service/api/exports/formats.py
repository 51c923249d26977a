"""The registry of export formats: one entry for each module of this room that has a ``FORMAT``."""

from __future__ import annotations

from service.api.exports import safetensors
from service.api.exports.format import ExportFormat
from service.api.http.problems import invalid, parameter_error

FORMATS: dict[str, ExportFormat] = {one.name: one for one in (safetensors.FORMAT,)}


def format_of(name: str) -> ExportFormat:
    """The format of a name.

    Raises:
        ApiProblem: 422.
    """
    if name not in FORMATS:
        *others, last = (repr(known) for known in FORMATS)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise invalid([parameter_error("format", "literal_error", f"must be {expected}")])
    return FORMATS[name]
