"""From a request for an edit to a queued job."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header, Request, Response
from pydantic import BaseModel, ValidationError

from jeep_core.errors import JeepError
from service.api.http.auditing import queued
from service.api.http.bodies import json_lines, parse_json, validate
from service.api.http.job_events import current
from service.api.http.problems import (
    OVER_LIMIT,
    ApiProblem,
    field_error,
    invalid,
    parameter_error,
    validation_errors,
)
from service.api.model import PublishedModel
from service.api.resources.jobs import job_out
from service.api.state import ApiState
from service.api.submission.foreign_forms import in_words
from service.api.submission.validation import ValidEdit, check_count, validate_edit
from service.contracts.jobs import Job, JobKind, new_id, now
from service.contracts.schemas import AUTO, EditPayload, EditRequest, FactIn, JobOut
from service.contracts.schemas.reading import Imported, SuiteProblem
from service.ops import logs, tracing
from service.store import Claim, JobExists, KeyReused, NameTaken, StoreFull, UnknownVersion

KEY = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")
KeyHeader = Annotated[
    str | None, Header(description="Repeating a request with it gives the same job.")
]


@dataclass(frozen=True)
class Source:
    """The origin of a fact: a pointer to it, and for imported facts line and record."""

    pointer: str
    line: int | None = None
    record: int | None = None


class Submission:
    """A request body with the mapping from a fact's index to what the client sent.

    ``sources[i]`` became fact ``i``: a line, or a record if the facts were ``imported`` from
    another format, which has other fields than a fact.
    """

    def __init__(
        self,
        request: EditRequest,
        sources: list[Source] | None = None,
        imported: Imported | None = None,
    ) -> None:
        self.request, self.imported = request, imported
        self._sources = sources

    def located(self, problem: ApiProblem) -> ApiProblem:
        """For uploads by line, ``/facts/3/prompt`` becomes ``/lines/4/prompt``."""
        if self._sources is None:
            return problem
        errors = [self._located(error, self._sources) for error in problem.errors]
        if errors and (problem.status == 422 or problem.code == OVER_LIMIT):
            return invalid(errors, problem.code)
        return ApiProblem(problem.code, problem.detail, errors, problem.headers)

    def drop(self, errors: list[dict[str, str]]) -> bool:
        """Drop the imported facts that errors point to, and count them.

        False, and nothing is dropped: the facts are not imported, none would be left, or
        something else is wrong as well.
        """
        facts, sources = self.request.facts, self._sources
        wrong = {_fact_index(error): error for error in errors}
        if not (self.imported and sources and wrong) or None in wrong or len(wrong) == len(facts):
            return False
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
        self.request = self.request.model_copy(update={"facts": [facts[i] for i in kept]})
        self._sources = [sources[i] for i in kept]
        return True

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
        return Submission(validate(EditRequest, data))
    except ApiProblem as problem:
        raise invalid(in_words(problem.errors), problem.code) from None


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
            errors += validation_errors(FactIn, error.errors(include_url=False), f"/lines/{number}")
    if not lines:
        errors.append(field_error("/lines", "empty", "the body has no fact"))
    if errors:
        raise invalid(in_words(errors))
    request = validate(EditRequest, {**from_query(options), "facts": facts})
    return Submission(request, [Source(f"/lines/{number}", number) for number in lines])


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

    Imported facts that the model cannot take are dropped and counted while others are left.

    Raises:
        ApiProblem: 422.
    """
    try:
        return validate_edit(submission.request, model)
    except ApiProblem as problem:
        if problem.status == 422 and submission.drop(problem.errors):
            return checked(submission, model)
        raise submission.located(problem) from None


def record(
    state: ApiState, submission: Submission, edit: ValidEdit, key: str | None
) -> tuple[Job, bool]:
    """Journal a job for a valid edit; False and the earlier job if ``key`` already belongs to one.

    Raises:
        ApiProblem: 429 if too many jobs wait, 507 if the store is full, 412 unless ``parent`` is
            head, 409 for a name that is taken, 422 for an unknown parent or a key that came with
            another body.
    """
    request = submission.request
    parent = known_parent(state, request.parent)

    def payload(job_id: str) -> EditPayload:
        check_now(state, parent, request.snapshot_name)
        return EditPayload(
            edit_id=edit_id_of(job_id),
            facts=edit.records,
            editor=edit.editor,
            preset=edit.preset,
            hparams=edit.hparams,
            snapshot_name=request.snapshot_name,
            parent=parent,
            indices=edit.indices,
            duplicates=edit.repeated,
            guards=request.guards,
            activate=request.activate,
            imported=submission.imported,
        )

    return journaled(state, JobKind.EDIT, payload, key, request.model_dump(mode="json"))


def journaled(
    state: ApiState,
    kind: JobKind,
    payload: Callable[[str], BaseModel],
    key: str | None,
    body: dict[str, Any],
) -> tuple[Job, bool]:
    """Journal a job; False and the earlier job if ``key`` came before with this ``body``.

    ``payload`` makes the payload for a job id, or refuses; it is not called for a repeated
    request, which therefore finds its job even if head has moved.

    Raises:
        ApiProblem: 429 if too many jobs wait, what ``payload`` raises, 422 for a key that came
            with another body.
        StoreFull: there is no room for another job.
    """
    job_id = new_id("job")
    if key is not None:
        claim = _claim(state, key, body, job_id)
        job_id = claim.job_id
        if not claim.fresh:
            return state.store.journal.read(job_id), False
    try:
        state.check_room()
        made = payload(job_id)
    except (ApiProblem, JeepError, StoreFull):
        if key is not None:
            state.store.journal.release_key(key, job_id)
        raise
    job = Job(
        id=job_id,
        kind=kind,
        payload=made.model_dump(mode="json"),
        request_id=logs.request_id(),
        traceparent=tracing.traceparent(),
        created_at=now(),
    )
    try:
        state.store.journal.add(job)
    except JobExists:  # the same key, at the same moment
        return state.store.journal.read(job_id), False
    return job, True


def check_key(key: str | None) -> None:
    """Refuse a malformed Idempotency-Key.

    Raises:
        ApiProblem: 422.
    """
    if key is not None and not KEY.fullmatch(key):
        message = "must be 1 to 255 visible ASCII characters"
        raise invalid([parameter_error("Idempotency-Key", "bad_key", message)])


async def submit(
    state: ApiState, request: Request, response: Response, job: Job, fresh: bool, location: str
) -> JobOut:
    """Queue a journaled job, or return its current state; the answer, and its headers."""
    queued(request, job.id)
    response.headers["Location"] = location
    if fresh:
        await state.reconciler.submit(job)
        return job_out(job)
    response.headers["Idempotency-Replayed"] = "true"
    return job_out(await current(state, job))


def edit_id_of(job_id: str) -> str:
    """An edit and its first job share a ULID, so that either finds the other."""
    return "edit_" + job_id.removeprefix("job_")


def job_id_of(edit_id: str) -> str:
    """The job of an edit."""
    return "job_" + edit_id.removeprefix("edit_")


def _claim(state: ApiState, key: str, body: dict[str, Any], job_id: str) -> Claim:
    text = json.dumps(body, sort_keys=True)
    try:
        return state.store.journal.claim_key(key, hashlib.sha256(text.encode()).hexdigest(), job_id)
    except KeyReused as error:
        message = f"this key came with another body before (job {error.job_id})"
        problem = parameter_error("Idempotency-Key", "idempotency_key_reused", message)
        raise invalid([problem], "idempotency_key_reused") from None


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


def _fact_index(error: dict[str, str]) -> int | None:
    """The fact that an error points to, if it points to one."""
    parts = error.get("pointer", "").split("/")
    return int(parts[2]) if len(parts) > 2 and parts[1] == "facts" else None
