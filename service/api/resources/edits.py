"""``/edits``: submit facts, see their outcomes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from jeep_core.errors import MissingMoments
from service.api.http.access import needs
from service.api.http.auditing import changes_nothing
from service.api.http.bodies import is_json_lines, json_request_body, read_body, read_json
from service.api.http.limits import fact_errors
from service.api.http.logs import log_texts
from service.api.http.paging import AFTER, Limit, Page
from service.api.http.problems import ApiProblem, documented, invalid
from service.api.jobs.submitting import KeyHeader, PreferHeader, check_key, submit_and_wait
from service.api.model import PublishedModel
from service.api.state import ApiState, State
from service.api.submission.choosing import choose_for
from service.api.submission.edits import (
    EDITS,
    Submission,
    check_now,
    check_repair,
    checked,
    from_lines,
    known_parent,
    record,
)
from service.api.submission.networks import check_network
from service.api.submission.plans import plan_of
from service.api.submission.uploads import Reading, from_file, from_value, has_records, reading
from service.api.submission.validation import ValidEdit
from service.contracts.jobs import Job, JobError
from service.contracts.schemas import (
    AUTO,
    Edit,
    EditOptions,
    EditPlan,
    EditRequest,
    FactIn,
    JobOut,
)
from service.contracts.schemas.access import Scope
from service.contracts.schemas.jobs import EditSummary as EditSummary
from service.settings import Settings
from service.store.base.moments import check_moments
from service.store.index import listing

router = APIRouter(tags=["edits"])

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
must satisfy the editor's schema; the field names those of all editors.  For a model without a
preset, some editors need none: they are what the kept probe of the base model
proposes (see `/probes`), else a small probe within the job; `hparams` is laid over that, too.
`"preset": "auto"` asks for it although there is a preset, as `"hparams": "auto"` does, beside which
nothing can be changed.  Where a probe proposes nothing they are fractions
of the model's depth, with a warning.  A dry run says what would be chosen and its `source`; the
result and the version's manifest record what it was.

**Which editor**: `editor` names one, or is `auto`: one is chosen among those that can edit this
model now, by the number of facts, the earlier facts of head's line and measured figures of the
model, when the request comes in.  `editor_reason` of the plan, of the edit and of its result says
why.  `preset` and `hparams` (but `"auto"`) go with a named editor only.

**What an editor needs**: some need a network trained for the model (`POST /hypernetworks`, `jeep
networks train`), and those that solve for a matrix need second moments: imported ones
(`JEEP_MOMENTS`), or over a text: the one that is named (`JEEP_CORPUS`), a bundled model's own, else
an English one that ships (`moments` of the result: `default corpus`).  What is lacking is a 409,
and is listed in `obstacles` of a dry run, as are a head that has moved and a name that is taken.

**Guards** are measured on the new version against its parent; one that is not kept fails the job
with `guard_failed` and its figure, and no version is written.

**Staging**: with `activate: false` the version is written and head stays; while head still is its
parent, `POST /snapshots/{id}/activate` moves head to it.

**Earlier facts**: some of those that the version already holds are asked again (`check_earlier`);
`earlier` of the result has those that the new version does not say, and which of them the batch
has broken.  With `repair` all of them are edited again together with the batch, in the same
version.

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
    openapi_extra=json_request_body(EditRequest, lines=FactIn),
)
@needs(EDITS.scope)
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
    check_earlier: Annotated[
        str | None, Query(description="By line or record only: a number, or `all`.")
    ] = None,
    repair: Annotated[str | None, Query(description="By line or record only: `true`.")] = None,
    idempotency_key: KeyHeader = None,
    prefer: PreferHeader = "",
) -> Response:
    """Queue an edit."""
    if dry_run:
        changes_nothing(request)
    options = {
        "editor": editor,
        "preset": preset,
        "hparams": hparams,
        "snapshot_name": snapshot_name,
        "parent": parent,
        "guards": guards,
        "activate": activate,
        "check_earlier": check_earlier,
        "repair": repair,
    }
    check_key(idempotency_key)
    submission = await _read(request, options, how, state.settings)
    model = await run_in_threadpool(state.models.get)
    await run_in_threadpool(choose_for, submission, state.store, model)
    edit = await run_in_threadpool(checked, submission, model)
    if dry_run:
        plan = await run_in_threadpool(plan_of, edit, model, state.store.base)
        plan.imported, plan.editor_reason = submission.imported, submission.editor_reason
        plan.obstacles = await run_in_threadpool(_obstacles, state, submission.options, edit, model)
        return Response(plan.model_dump_json(), media_type="application/json")
    log_texts(request, state.settings, "facts", map(str, edit.facts))
    await run_in_threadpool(check_possible, state, edit, model)
    job, fresh = await run_in_threadpool(record, state, submission, edit, idempotency_key)
    return await submit_and_wait(state, request, job, fresh, prefer)


@router.get("/edits", responses=documented(422))
@needs(Scope.READ)
async def list_edits(
    state: State,
    limit: Limit = 50,
    after: Annotated[str | None, Query(pattern=EDITS.id_pattern, description=AFTER)] = None,
) -> Page[EditSummary]:
    """Submitted batches, newest first."""
    return await EDITS.page(state, limit, after, _summary)


@router.get("/edits/{id}", responses=documented(404))
@needs(Scope.READ)
async def show_edit(id: str, state: State, response: Response) -> Edit:
    """A batch with its facts; once it has ended, with the outcome of every fact."""
    job = await EDITS.find(state, id)
    payload, result = EDITS.payload(job), EDITS.result(job)
    hparams = payload.hparams
    if result is not None:
        response.headers["X-Model-Version"] = result.version
        if hparams == AUTO and await run_in_threadpool(
            state.store.versions.is_readable, result.version
        ):
            manifest = await run_in_threadpool(state.store.versions.read, result.version)
            hparams = manifest.hparams
    return Edit(
        **EDITS.shown(job),
        editor=payload.editor,
        editor_reason=payload.editor_reason,
        preset=payload.preset,
        hparams=hparams,
        facts=payload.facts,
        applied_in=await run_in_threadpool(
            listing.applied_in, state.store, payload.edit_id, state.store.head.read().version
        ),
        imported=payload.imported,
        guards=payload.guards,
    )


def check_possible(state: ApiState, edit: ValidEdit, model: PublishedModel) -> None:
    """Refuse a valid edit for which the worker would lack moments or a network.

    Raises:
        MissingMoments: answered with 409.
        ApiProblem: 409 without a network that fits.
    """
    check_moments(state.store.base, model.info, edit.editor, edit.hparams)
    check_network(state.store.base, model.info, edit.editor, edit.hparams)


def _obstacles(
    state: ApiState, options: EditOptions, edit: ValidEdit, model: PublishedModel
) -> list[JobError]:
    """Return the reasons why the edit of a dry run would be refused now.

    Raises:
        ApiProblem: 422 for an unknown parent, which waiting does not fix.
    """
    parent = known_parent(state, options.parent)
    found = []
    for check, arguments in (
        (check_possible, (state, edit, model)),
        (check_now, (state, parent, options.snapshot_name)),
    ):
        try:
            check(*arguments)
        except (MissingMoments, ApiProblem) as error:
            found.append(JobError(code=error.code, message=str(error)))
    return found


async def _read(
    request: Request, options: dict[str, str | None], how: Reading, settings: Settings
) -> Submission:
    submission = await _parsed(request, options, how, settings.max_facts)
    check_repair(submission.options, settings.check_earlier)
    errors = fact_errors(submission.facts, settings)
    if errors and not submission.drop(errors):
        raise submission.located(invalid(errors, "invalid_facts"))
    return submission


async def _parsed(
    request: Request, options: dict[str, str | None], how: Reading, max_facts: int
) -> Submission:
    body, by_line = await read_body(request), is_json_lines(request)
    if by_line and not how.asked and not has_records(body):
        return await run_in_threadpool(from_lines, body, options, max_facts)
    if by_line or how.asked:
        return await run_in_threadpool(from_file, body, options, how, max_facts, by_line)
    value = await read_json(request, otherwise=FILES)
    return await run_in_threadpool(from_value, value, options, how, max_facts)


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
