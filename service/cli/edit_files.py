"""The input of ``jeep edit``: plain facts, or records of suites converted to facts."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import typer

from jeep_core.errors import JeepError
from jeep_core.suites import InvalidSuite, SuiteReader
from jeep_core.suites.edits import facts_of, foreign_records
from jeep_core.suites.fields import Malformed
from jeep_core.text.counting import counted
from service.cli.common import EXIT_FAILED, check_facts, complain, err, parse_values
from service.cli.reading import loss_lines
from service.contracts.schemas import AUTO, EditRequest, FactIn
from service.contracts.schemas.reading import Imported, imported_from

PROBLEMS = 10
"""Problems of a file that are shown."""
OPTIONS = EditRequest.model_fields.keys() - {"facts"}
TOLD = {"exact", "dry_run", "drop_bad"}
"""No fields of an edit: beside records the service says where they belong, and edits nothing."""


def read_edit(file: Path, format: str | None, limit: int | None, drop_bad: bool) -> dict[str, Any]:
    """The body of an edit.

    With one of the options, and where it is CSV, the file is read as records of a suite, from
    the beginning to ``limit``, so that a few facts of a large file can be edited; losses are
    reported.
    """
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}"
        raise typer.BadParameter(message, param_hint="FILE") from None
    if format is not None or limit is not None or drop_bad:
        return _records(data, file, format, limit, drop_bad)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{file} is not text in UTF-8: {error.reason} at byte {error.start}"
        raise typer.BadParameter(message, param_hint="FILE") from None
    if _is_table(text):
        return _records(data, file, None, None, False)
    return _body(text, file)


def _is_table(text: str) -> bool:
    """Whether a text is to be read as CSV: it has something in it, and is no JSON."""
    begin = text.lstrip()
    if not begin or begin[0] in "[{":
        return False
    try:
        json.loads(begin)
    except (ValueError, RecursionError):
        return True
    return False


def lay_over(body: dict[str, Any], options: dict[str, Any]) -> None:
    """Put hyper-parameters that have options of their own into the body of an edit.

    ``"auto"`` for all of them becomes ``"auto"`` for the preset, over which these are laid.

    Raises:
        typer.BadParameter: its hyper-parameters are no object, or it has a preset beside "auto".
    """
    if not options:
        return
    hparams = body.get("hparams")
    if hparams == AUTO and body.get("preset") in (None, AUTO):
        body["preset"], hparams = AUTO, None
    if hparams is not None and not isinstance(hparams, dict):
        name = next(iter(options))
        message = f"--{name} needs hyper-parameters as an object, or none: leave out --hparams"
        raise typer.BadParameter(message, param_hint=f"--{name}")
    body["hparams"] = {**(hparams or {}), **options}


def tell_losses(imported: Imported | None) -> None:
    """Report on standard error what became of the records, if the facts came as records."""
    if imported is None:
        return
    facts, records = counted(imported.facts, "fact"), counted(imported.records, "record")
    err.print(f"{imported.format}: {facts} of {records}")
    for line in loss_lines(imported):
        err.print(line)


def _records(
    data: bytes, file: Path, format: str | None, limit: int | None, drop_bad: bool
) -> dict[str, Any]:
    try:
        reader = SuiteReader(io.BytesIO(data), format, drop_bad, "accuracy", limit)
        facts = [one.fact for one in facts_of(reader)]
    except InvalidSuite as error:
        complain(_told(error, file))
        raise typer.Exit(EXIT_FAILED) from None
    except JeepError as error:
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    tell_losses(imported_from(reader.report, len(facts)))
    said = [
        {k: v for k, v in vars(fact).items() if v and k in FactIn.model_fields} for fact in facts
    ]
    return {"facts": said}


def _told(error: InvalidSuite, file: Path) -> str:
    """The first problems of a file, one a line."""
    name = "standard input" if str(file) == "-" else str(file)
    if error.count == 1:
        return f"{name}: {error}"
    rest = error.count - PROBLEMS
    more = [f"  and {rest} more"] if rest > 0 else []
    problems = [f"  {one}" for one in error.problems[:PROBLEMS]]
    return "\n".join([f"{name}: {counted(error.count, 'problem')}", *problems, *more])


def _body(text: str, file: Path) -> dict[str, Any]:
    data = parse_values(text, file, "FILE")
    if isinstance(data, dict) and "facts" in data:
        return {**data, "facts": check_facts(data["facts"], file, "FILE")}
    if not isinstance(data, dict):
        return {"facts": check_facts(data, file, "FILE")}
    ours = OPTIONS | TOLD
    rest = {name: value for name, value in data.items() if name in ours}
    record = {name: value for name, value in data.items() if name not in ours}
    try:
        return {"facts": foreign_records(record) or [record], **rest}
    except Malformed as error:
        raise typer.BadParameter(f"{file}: {error}", param_hint="FILE") from None
