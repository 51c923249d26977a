"""From a request for an edit to a queued job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from jeep_core.probe.defaults.editor_choice import EditorChoice
from service.api.http.bodies import json_lines, parse_json, validate
from service.api.http.problems import (
    OVER_LIMIT,
    ApiProblem,
    field_error,
    invalid,
    validation_errors,
)
from service.api.jobs.resource import JobResource
from service.api.model import PublishedModel
from service.api.state import ApiState
from service.api.submission.foreign_forms import in_words
from service.api.submission.misplaced import IN_THE_QUERY, in_the_query, told_where, validated
from service.api.submission.validation import (
    SentFact,
    ValidEdit,
    check_count,
    read_edit,
    validate_edit,
)
from service.contracts.jobs import Job, JobKind
from service.contracts.schemas import (
    AUTO,
    EditOptions,
    EditPayload,
    EditRequest,
    EditResult,
    FactIn,
)
from service.contracts.schemas.reading import Imported, SuiteProblem
from service.store import NameTaken, UnknownVersion

EDITS = JobResource[EditPayload, EditResult](JobKind.EDIT)


@dataclass(frozen=True)
class Source:
    """The origin of a fact: a pointer to it, and for imported facts line and record."""

    pointer: str
    line: int | None = None
    record: int | None = None


LATER_OPTIONS: Mapping[str, Any] = {"check_earlier": None, "repair": False}
LATER_GUARDS: Mapping[str, Any] = {"min_success": None, "max_drift": None, "min_ability": None}
"""Fields that came later, with their defaults: requests without them are what they were, and stores
keep their hash."""


class Submission:
    """A request body: facts, and what it says besides them.

    ``sources[i]`` became fact ``i``: a line, or a record if the facts were ``imported`` from
    another format, which has other fields than a fact.
    """

    def __init__(
        self,
        options: EditOptions,
        facts: Sequence[SentFact],
        sources: list[Source] | None = None,
        imported: Imported | None = None,
    ) -> None:
        self.options, self.facts, self.imported = options, facts, imported
        self._sources = sources
        self.choice: EditorChoice | None = None

    @property
    def meant(self) -> EditOptions:
        """The options with the editor that was chosen, if it was left to choose."""
        if self.choice is None:
            return self.options
        return self.options.model_copy(update={"editor": self.choice.editor})

    @property
    def editor_reason(self) -> str | None:
        """Why the editor was chosen; None if the request names it."""
        return None if self.choice is None else self.choice.reason

    @property
    def said(self) -> dict[str, Any]:
        """The request as JSON in the form of ``EditRequest``, whatever form it came in."""
        facts = [_said(fact) for fact in self.facts]
        options = self.options.model_dump(mode="json", exclude={"facts"})
        for part, later in ((options, LATER_OPTIONS), (options["guards"] or {}, LATER_GUARDS)):
            for name, default in later.items():
                if name in part and part[name] == default:
                    del part[name]
        return {**options, "facts": facts}

    def located(self, problem: ApiProblem) -> ApiProblem:
        """For uploads by line, ``/facts/3/prompt`` becomes ``/lines/4/prompt``."""
        if self._sources is None:
            return problem
        errors = [self._located(error, self._sources) for error in problem.errors]
        if errors and (problem.status == 422 or problem.code == OVER_LIMIT):
            return invalid(errors, problem.code)
        return ApiProblem(problem.code, problem.detail, errors, problem.headers)

    def drop(self, errors: list[dict[str, str]]) -> list[int]:
        """Drop the imported facts that errors point to, and count them; the indices of the rest.

        None are returned, and nothing is dropped: the facts are not imported, none would be
        left, or something else is wrong as well.
        """
        facts, sources = self.facts, self._sources
        wrong = {_fact_index(error): error for error in errors}
        if not (self.imported and sources and wrong) or None in wrong or len(wrong) == len(facts):
            return []
        for index, error in wrong.items():
            at = sources[int(index or 0)]
            lost = SuiteProblem(
                line=at.line,
                record=at.record,
                field="",
                code=error["code"],
                message=error["message"],
            )
            self.imported.count_lost(lost)
        kept = [i for i in range(len(facts)) if i not in wrong]
        self.facts = [facts[i] for i in kept]
        self._sources = [sources[i] for i in kept]
        return kept

    def _located(self, error: dict[str, str], sources: list[Source]) -> dict[str, str]:
        index = _fact_index(error)
        if index is None:
            return error
        fields = error["pointer"].split("/")[3:] if self.imported is None else []
        return {**error, "pointer": "/".join([sources[index].pointer, *fields])}


def from_json_body(data: Any, max_facts: int) -> Submission:
    """A JSON body.

    Raises:
        ApiProblem: 413 for too many facts, 422 with a pointer per wrong field.
    """
    if isinstance(data, dict) and isinstance(data.get("facts"), list):
        check_count(len(data["facts"]), max_facts)
    try:
        request = validated(EditRequest, data)
    except ApiProblem as problem:
        raise invalid(map(_misplaced, in_words(problem.errors)), problem.code) from None
    return Submission(request, request.facts)


def _misplaced(error: dict[str, str]) -> dict[str, str]:
    name = error["pointer"].removeprefix("/")
    unknown = error["code"] == "extra_forbidden"
    return in_the_query(name) if unknown and name in IN_THE_QUERY else error


def from_lines(body: bytes, options: dict[str, str | None], max_facts: int) -> Submission:
    """One fact per line; the other fields are query parameters, some of them as JSON.

    Raises:
        ApiProblem: 400 for malformed lines, 413 for too many, 422 naming line and field.
    """
    lines: list[int] = []
    facts: list[FactIn] = []
    errors: list[dict[str, str]] = []
    for number, value in json_lines(body):
        check_count(len(lines) + 1, max_facts)
        lines.append(number)
        try:
            facts.append(FactIn.model_validate(value))
        except ValidationError as error:
            errors += validation_errors(FactIn, error, value, f"/lines/{number}")
    if not lines:
        errors.append(field_error("/lines", "empty", "the body has no fact"))
    if errors:
        raise invalid(told_where(in_words(errors), options))
    sources = [Source(f"/lines/{number}", number) for number in lines]
    return Submission(validate(EditOptions, from_query(options)), facts, sources)


def from_query(options: dict[str, str | None]) -> dict[str, Any]:
    """The fields of an edit that came as query parameters, some of them as JSON.

    Raises:
        ApiProblem: 400 for malformed JSON.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name in ("hparams", "guards"):
        if name in given and given[name] != AUTO:
            given[name] = parse_json(given[name], f"/{name}")
    return given


def checked(submission: Submission, model: PublishedModel) -> ValidEdit:
    """Validate against the model; errors point to where the client wrote the field.

    Hyper-parameters and facts are read once.  Imported facts that the model cannot take are
    dropped and counted while others are left.

    Raises:
        ApiProblem: 422.
    """
    options = submission.meant
    read = read_edit(options, submission.facts, model)
    while True:
        try:
            return validate_edit(options, read, model)
        except ApiProblem as problem:
            kept = submission.drop(problem.errors) if problem.status == 422 else []
            if not kept:
                raise submission.located(problem) from None
        read = read.only(kept)


def check_repair(options: EditOptions, usual: int) -> None:
    """Refuse a repair that could never find anything; ``usual``: JEEP_CHECK_EARLIER.

    Raises:
        ApiProblem: 422.
    """
    how_many = usual if options.check_earlier is None else options.check_earlier
    if options.repair and how_many == 0:
        where = "JEEP_CHECK_EARLIER" if options.check_earlier is None else "check_earlier"
        message = (
            f"only facts that are asked again can be mended, and {where} is 0: set "
            "check_earlier, for instance to all"
        )
        raise invalid([field_error("/repair", "nothing_checked", message)])


def record(
    state: ApiState, submission: Submission, edit: ValidEdit, key: str | None
) -> tuple[Job, bool]:
    """Journal a job for a valid edit; False and the earlier job if ``key`` already belongs to one.

    Raises:
        ApiProblem: 429 if too many jobs wait, 507 if the store is full, 412 unless ``parent`` is
            head, 409 for a name that is taken, 422 for an unknown parent or a key that came with
            another body.
    """
    options = submission.options
    parent = known_parent(state, options.parent)

    def payload(job_id: str) -> EditPayload:
        check_now(state, parent, options.snapshot_name)
        return EditPayload(
            edit_id=EDITS.id_of(job_id),
            facts=edit.records,
            editor=edit.editor,
            editor_reason=submission.editor_reason,
            automatic=AUTO in (options.preset, options.hparams),
            preset=edit.preset,
            hparams=edit.hparams_record,
            changes=dict(edit.changes),
            snapshot_name=options.snapshot_name,
            parent=parent,
            indices=edit.indices,
            duplicates=edit.repeated,
            guards=options.guards,
            activate=options.activate,
            imported=submission.imported,
            check_earlier=options.check_earlier,
            repair=options.repair,
            warnings=edit.warnings,
        )

    return EDITS.journaled(state, payload, key, submission.said)


def known_parent(state: ApiState, parent: str | None) -> str | None:
    """The id of the version that ``parent`` names.

    Raises:
        ApiProblem: 422 if there is none.
    """
    try:
        return None if parent is None else state.store.names.resolve(parent)
    except UnknownVersion as error:
        raise invalid([field_error("/parent", "unknown_version", str(error))]) from None


def check_now(state: ApiState, parent: str | None, name: str | None) -> None:
    """Check the conditions that may have changed by the time a request is repeated.

    Raises:
        ApiProblem: 412 unless ``parent`` is head, 409 for a name that is taken.
    """
    _check_head(state, parent)
    _check_name(state, name)


def _check_head(state: ApiState, parent: str | None) -> None:
    head = state.store.head.read().version
    if parent is not None and parent != head:
        detail = f"head is {head}, not {parent}: send it again with the new parent, or without one"
        errors = [field_error("/parent", "head_moved", detail)]
        raise ApiProblem("head_moved", detail, errors)


def _check_name(state: ApiState, name: str | None) -> None:
    version = state.store.names.all().get(name) if name is not None else None
    if name is not None and version is not None:
        detail = str(NameTaken(name, version))
        error = field_error("/snapshot_name", "name_taken", detail)
        raise ApiProblem("name_taken", detail, [error])


def _said(fact: SentFact) -> dict[str, Any]:
    """A fact with the fields of ``FactIn``, as keys of requests have always been compared."""
    if isinstance(fact, FactIn):
        said = fact.model_dump(mode="json")
        return said if fact.messages else {k: v for k, v in said.items() if k != "messages"}
    own = {name: value for name, value in asdict(fact).items() if name not in ("messages", "chat")}
    return {"relation": None, "object": None, **own}


def _fact_index(error: dict[str, str]) -> int | None:
    """The fact that an error points to, if it points to one."""
    parts = error.get("pointer", "").split("/")
    return int(parts[2]) if len(parts) > 2 and parts[1] == "facts" else None
