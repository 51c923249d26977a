"""``/edits``: submit facts, see their outcomes."""

from __future__ import annotations

import re
from contextlib import nullcontext
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from jeep_core.errors import NoMoments
from service.api.http.access import caller_of, needs
from service.api.http.bodies import is_json_lines, json_request_body, read_json
from service.api.http.job_events import current, wait_for_end
from service.api.http.limits import fact_errors
from service.api.http.logs import log_texts
from service.api.http.paging import AFTER, Limit, Page, take
from service.api.http.problems import ApiProblem, documented, invalid, not_found
from service.api.model import PublishedModel
from service.api.resources.hypernetworks import check_network
from service.api.resources.jobs import job_out
from service.api.state import ApiState, State
from service.api.submission.jobs import (
    Submission,
    check_key,
    check_now,
    checked,
    from_lines,
    job_id_of,
    known_parent,
    record,
)
from service.api.submission.uploads import Reading, from_file, from_value, has_records, reading
from service.api.submission.validation import ValidEdit, plan_of
from service.contracts.jobs import TERMINAL, Job, JobError, JobKind, JobStatus
from service.contracts.schemas import (
    AUTO,
    Edit,
    EditPayload,
    EditPlan,
    EditRequest,
    EditResult,
    JobOut,
)
from service.contracts.schemas.access import Caller, Scope
from service.settings import Settings
from service.store import Store, UnknownJob
from service.store.base.moments import check_moments

router = APIRouter(tags=["edits"])

LONGEST_WAIT_S = 300
FILES = "; a file of records of any type is read with ?format=auto"

DESCRIPTION = """\
Queues an edit and answers 202 with its job; `Location` is the job's address.

**Facts** are `{subject, relation, object}` or `{subject, prompt, target_new}`.  `relation` is the
name of a relation, else a template with one `{}`, else the text that follows the subject; one
word with an underscore, or what resembles a known name, is refused (`unknown_relation`).
`prompt` has one `{}` or contains the subject as a word of its own, whose last occurrence is meant.
White space around a prompt is a part of it.  `join` says how answers follow prompts: `auto` puts
a blank unless the texts need none, `space` and `none` always or never; a dry run shows it.

**Hyper-parameters** are the preset's with `hparams` laid over them, field by field; together they
must satisfy the editor's schema (`JeepHParams` for `jeep`; the field names them all).  For `jeep`,
`memit` and `pmet` they may be `"auto"`: layers that a probe of the base model proposes, see
`/probes`; the version's manifest records what they became.  `mend` and
`malmen` need a network trained for the model: `jeep train-hypernetwork`.  Editors that solve for
a matrix (`jeep`, `memit`, …; not `ft-wd`, `mend`, `malmen`) need second moments: a text
(`JEEP_CORPUS`) or imported ones (`JEEP_MOMENTS`).  What is lacking is a 409, and stands in
`obstacles` of a dry run, as do a head that has moved and a name that is taken.

**Guards** are measured on the new version against its parent; one that is not kept fails the job
with `guard_failed` and its figure, and no version is written.

**Staging**: with `activate: false` the version is written and head stays; while head still is its
parent, `POST /snapshots/{id}/activate` moves head to it.

**By line**: `application/x-ndjson` (also `application/jsonl`) carries one fact per line; the
other fields are then query parameters (`hparams` and `guards` as JSON), and pointers in errors name
the line, as in `/lines/4/prompt`.

**Other formats**: records of every format that suites come in (see `POST /suites`) are taken for
facts, as they are or in `facts`, and so are the arguments of an EasyEdit call, `prompts`, `subject`
and `target_new`.  With `format=auto` or a format's name the body is a file of records, of any
content type; `limit` reads the first ones only.  Query parameters are then as for uploads by line.
Records that cannot be edited are left out, with `drop_bad=true` also those that do not have the
format; `imported` in the answer counts both, with the reasons.

**Headers**: `Idempotency-Key` makes repeating safe: the same key and body give the same job, with
another body 422.  `Prefer: wait=N` holds the answer back for up to N (at most 300) seconds and
answers 200 if the job has ended by then.
"""


class EditSummary(BaseModel):
    """A batch in ``GET /edits``: without its facts and their outcomes."""

    id: str
    job_id: str
    status: JobStatus
    editor: str
    preset: str | None
    n_facts: int
    snapshot_name: str | None
    created_at: datetime
    version: str | None = None
    efficacy: float | None = None
    greedy_success: float | None = None
    error: JobError | None = None


@router.post(
    "/edits",
    status_code=202,
    response_model=JobOut,
    description=DESCRIPTION,
    responses={
        200: {
            "description": "The plan of a dry run; or the job, which has ended.",
            "model": EditPlan | JobOut,
        },
        **documented(400, 409, 412, 413, 415, 422, 429, 503, 507),
    },
    openapi_extra=json_request_body("EditRequest", lines="FactIn"),
)
@needs(Scope.EDIT)
async def submit_edit(
    request: Request,
    state: State,
    how: Annotated[Reading, Depends(reading)],
    dry_run: Annotated[
        bool, Query(description="Show tokens and positions, queue nothing.")
    ] = False,
    editor: Annotated[str | None, Query(description="By line or record only.")] = None,
    preset: Annotated[str | None, Query(description="By line or record only.")] = None,
    hparams: Annotated[
        str | None, Query(description="By line or record only: JSON, or auto.")
    ] = None,
    snapshot_name: Annotated[str | None, Query(description="By line or record only.")] = None,
    parent: Annotated[str | None, Query(description="By line or record only.")] = None,
    guards: Annotated[str | None, Query(description="By line or record only: JSON.")] = None,
    activate: Annotated[str | None, Query(description="By line or record only: `false`.")] = None,
    idempotency_key: Annotated[str | None, Header()] = None,
    prefer: Annotated[str, Header(description="`wait=N`")] = "",
) -> Response:
    """Queue an edit."""
    options = {
        "editor": editor,
        "preset": preset,
        "hparams": hparams,
        "snapshot_name": snapshot_name,
        "parent": parent,
        "guards": guards,
        "activate": activate,
    }
    check_key(idempotency_key)
    submission = await _read(request, options, how, state.settings)
    model = await run_in_threadpool(state.models.get)
    edit = await run_in_threadpool(checked, submission, model)
    if dry_run:
        plan = await run_in_threadpool(plan_of, edit, model)
        plan.imported = submission.imported
        plan.obstacles = await run_in_threadpool(_obstacles, state, submission.request, edit, model)
        return _json(plan, 200, {})
    log_texts(request, state.settings, "facts", map(str, edit.facts))
    await run_in_threadpool(check_possible, state, edit, model)
    job, fresh = await run_in_threadpool(record, state, submission, edit, idempotency_key)
    if fresh:
        await state.reconciler.submit(job)
    return await accepted(state, caller_of(request), job, fresh, prefer)


@router.get("/edits", responses=documented(422))
@needs(Scope.READ)
async def list_edits(
    state: State,
    limit: Limit = 50,
    after: Annotated[str | None, Query(pattern=r"^edit_[0-9A-Z]{26}$", description=AFTER)] = None,
) -> Page[EditSummary]:
    """Submitted batches, newest first."""
    cursor = None if after is None else job_id_of(after)
    jobs = state.store.journal.all(kind=JobKind.EDIT, after=cursor)
    taken, has_more = await run_in_threadpool(take, jobs, limit)
    data = [_summary(await current(state, job)) for job in taken]
    return Page(data=data, has_more=has_more, next=data[-1].id if has_more else None)


@router.get("/edits/{id}", responses=documented(404))
@needs(Scope.READ)
async def show_edit(id: str, state: State, response: Response) -> Edit:
    """A batch with its facts; once it has ended, with the outcome of every fact."""
    job = await current(state, await run_in_threadpool(job_of_edit, state.store, id))
    payload = EditPayload.model_validate(job.payload)
    result = _result(job)
    hparams = payload.hparams
    if result is not None:
        response.headers["X-Model-Version"] = result.version
        if hparams == AUTO and await run_in_threadpool(
            state.store.versions.is_readable, result.version
        ):
            manifest = await run_in_threadpool(state.store.versions.read, result.version)
            hparams = manifest.hparams
    return Edit(
        id=payload.edit_id,
        job_id=job.id,
        status=job.status,
        editor=payload.editor,
        preset=payload.preset,
        hparams=hparams,
        facts=payload.facts,
        created_at=job.created_at,
        result=result,
        error=job.error,
        applied_in=await run_in_threadpool(_applied_in, state.store, payload.edit_id),
        imported=payload.imported,
    )


def job_of_edit(store: Store, edit_id: str) -> Job:
    """The job that first applied a batch.

    Raises:
        ApiProblem: 404.
    """
    try:
        job = store.journal.read(job_id_of(edit_id))
    except UnknownJob:
        raise not_found("edit", edit_id) from None
    if job.kind is not JobKind.EDIT or job.payload["edit_id"] != edit_id:
        raise not_found("edit", edit_id)
    return job


def _applied_in(store: Store, edit_id: str) -> str | None:
    """Return the version in head's history that holds a batch, as far back as it can be read."""
    version: str | None = store.head.read().version
    while version is not None and store.versions.is_readable(version):
        manifest = store.versions.read(version)
        if manifest.edit_id == edit_id:
            return version
        version = manifest.parent
    return None


def check_possible(state: ApiState, edit: ValidEdit, model: PublishedModel) -> None:
    """Refuse a valid edit for which the worker would lack moments or a network.

    Raises:
        NoMoments: answered with 409.
        ApiProblem: 409 without a network that fits.
    """
    check_moments(state.store.base, model.info, edit.editor, edit.hparams)
    check_network(state, edit, model)


def _obstacles(
    state: ApiState, request: EditRequest, edit: ValidEdit, model: PublishedModel
) -> list[JobError]:
    """Return the reasons why the edit of a dry run would be refused now.

    Raises:
        ApiProblem: 422 for an unknown parent, which waiting does not fix.
    """
    parent = known_parent(state, request.parent)
    found = []
    for check, arguments in (
        (check_possible, (state, edit, model)),
        (check_now, (state, parent, request.snapshot_name)),
    ):
        try:
            check(*arguments)
        except (NoMoments, ApiProblem) as error:
            found.append(JobError(code=error.code, message=str(error)))
    return found


async def _read(
    request: Request, options: dict[str, str | None], how: Reading, settings: Settings
) -> Submission:
    submission = await _parsed(request, options, how, settings.max_facts)
    errors = fact_errors(submission.request.facts, settings)
    if errors and not submission.drop(errors):
        raise submission.located(invalid(errors, "invalid_facts"))
    return submission


async def _parsed(
    request: Request, options: dict[str, str | None], how: Reading, max_facts: int
) -> Submission:
    body, by_line = await request.body(), is_json_lines(request)
    if by_line and not how.asked and not has_records(body):
        return await run_in_threadpool(from_lines, body, options, max_facts)
    if by_line or how.asked:
        return await run_in_threadpool(from_file, body, options, how, max_facts, by_line)
    value = await read_json(request, otherwise=FILES)
    return await run_in_threadpool(from_value, value, options, how, max_facts)


async def accepted(state: ApiState, caller: Caller, job: Job, fresh: bool, prefer: str) -> Response:
    """202 with the job, or 200 if it ended within the time the client prefers to wait.

    A preference is not applied while all places for open answers are taken.
    """
    headers = {"Location": f"/jobs/{job.id}"}
    if not fresh:
        headers["Idempotency-Replayed"] = "true"
    seconds = wait_of(prefer)
    with state.streams.slot(caller) if seconds is not None else nullcontext(False) as waits:
        if seconds is not None and waits:
            headers["Preference-Applied"] = f"wait={seconds}"
            job = await wait_for_end(state, job.id, seconds)
        else:
            job = await current(state, job)
    ended = waits and job.status in TERMINAL
    if ended and job.result is not None:
        headers["X-Model-Version"] = job.result["version"]
    return _json(job_out(job), 200 if ended else 202, headers)


def _json(body: BaseModel, status: int, headers: dict[str, str]) -> Response:
    content = body.model_dump_json()
    return Response(content, status, headers=headers, media_type="application/json")


def wait_of(prefer: str) -> int | None:
    """Seconds of ``wait=N`` in a Prefer header, at most 300; None without one (RFC 7240)."""
    for preference in re.split(r"[,;]", prefer):
        name, _, value = preference.partition("=")
        seconds = value.strip().strip('"')
        if name.strip().lower() == "wait" and seconds.isascii() and seconds.isdecimal():
            return min(int(seconds[:9]), LONGEST_WAIT_S)
    return None


def _summary(job: Job) -> EditSummary:
    payload: dict[str, Any] = job.payload
    result = job.result or {}
    return EditSummary(
        id=payload["edit_id"],
        job_id=job.id,
        status=job.status,
        editor=payload["editor"],
        preset=payload["preset"],
        n_facts=len(payload["facts"]),
        snapshot_name=payload["snapshot_name"],
        created_at=job.created_at,
        version=result.get("version"),
        efficacy=result.get("efficacy"),
        greedy_success=result.get("greedy_success"),
        error=job.error,
    )


def _result(job: Job) -> EditResult | None:
    if job.status is not JobStatus.SUCCEEDED or job.result is None:
        return None
    return EditResult.model_validate(job.result)
