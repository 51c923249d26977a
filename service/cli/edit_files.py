"""What ``jeep edit`` reads: facts as they are, or records of suites made into facts."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import typer

from jeep_core.errors import JeepError
from jeep_core.evaluation.suites import SuiteReader
from jeep_core.evaluation.suites.edits import facts_of, foreign_records
from jeep_core.evaluation.suites.fields import Malformed
from service.cli.common import EXIT_FAILED, complain, err, parse_json
from service.cli.reading import loss_lines
from service.schemas import EditRequest
from service.schemas.reading import Imported, imported_from

OPTIONS = EditRequest.model_fields.keys() - {"facts"}


def read_edit(file: Path, format: str | None, limit: int | None, drop_bad: bool) -> dict[str, Any]:
    """The body of an edit.

    With one of the options the file is read as records of a suite, from the beginning to
    ``limit``, so that a few facts of a large file can be edited; what is lost is said.
    """
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from None
    if format is not None or limit is not None or drop_bad:
        return _records(data, format, limit, drop_bad)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from None
    return _body(text, file)


def tell_losses(imported: Imported | None) -> None:
    """Say on standard error what became of records, if the facts came as such."""
    if imported is None:
        return
    err.print(f"{imported.format}: {imported.facts} facts of {imported.records} records")
    for line in loss_lines(imported):
        err.print(line)


def _records(data: bytes, format: str | None, limit: int | None, drop_bad: bool) -> dict[str, Any]:
    try:
        reader = SuiteReader(io.BytesIO(data), format, drop_bad, "accuracy", limit)
        facts = [one.fact for one in facts_of(reader)]
    except JeepError as error:
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    tell_losses(imported_from(reader.report, len(facts)))
    said = [{k: v for k, v in vars(fact).items() if v is not None} for fact in facts]
    return {"facts": said}


def _body(text: str, file: Path) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        data = [parse_json(line, f"{file}, fact {i}") for i, line in enumerate(lines, start=1)]
    if isinstance(data, list):
        return {"facts": data}
    if not isinstance(data, dict) or "facts" in data:
        return data if isinstance(data, dict) else {"facts": [data]}
    rest = {name: value for name, value in data.items() if name in OPTIONS}
    record = {name: value for name, value in data.items() if name not in OPTIONS}
    try:
        return {"facts": foreign_records(record) or [record], **rest}
    except Malformed as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from None
