"""Dialogs that move head or name a version, and what each says before anything happens.

A dialog is asked for with GET, by any reader, and carried out with POST, which needs `edit`.  One
that is refused is shown again with what was filled in, the reason, and each field's error beside
the field; to a key that may not read only the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.console.calls import Calls, at
from service.api.console.forms import read_form
from service.api.console.pages.history.differing import Difference, difference
from service.api.console.pages.history.version import VERSION
from service.api.console.rendering import CHANGED, fragment
from service.api.http.access import caller_of, needs
from service.api.http.paging import Page
from service.api.http.problems import ApiProblem
from service.api.resources.reverts import REVERTS
from service.api.resources.targets import TargetList
from service.api.state import State
from service.contracts.jobs import TERMINAL, JobStatus, Lane
from service.contracts.schemas import Activation, JobOut, RollbackResult, Snapshot
from service.contracts.schemas.access import Scope
from service.contracts.schemas.targets import PushTarget
from service.store import CorruptFile, Store

router = APIRouter()

DIALOG = {"HX-Retarget": "#dialog", "HX-Reswap": "innerHTML"}
"""Headers of an answer that goes into the dialog, wherever it was asked from."""
MOST_JOBS = 200


@dataclass(frozen=True)
class Consequences:
    """The fate of facts, jobs and targets if head goes to ``version``.

    ``found``: the difference from head, None where a damaged record hides it.  ``queued`` and
    ``running`` count jobs of the write lane.
    """

    version: Snapshot
    head: str
    found: Difference | None
    queued: int
    running: int
    targets: Sequence[PushTarget]


@router.get(f"{VERSION}/roll-back")
@needs(Scope.READ)
async def roll_back_dialog(ref: str, request: Request, state: State) -> Response:
    """The consequences of a rollback to this version."""
    return await _moving(request, state, ref, "history/roll_back.html")


@router.post(f"{VERSION}/roll-back")
@needs(Scope.EDIT)
async def roll_back_here(ref: str, request: Request, state: State) -> Response:
    """Move head to this version, unless it is no longer where the dialog said it was."""
    form = await read_form(request)
    given = {name: form.get(name) for name in ("why", "queued", "head")}
    template = "history/roll_back.html"
    try:
        await _check_head(state.store, given["head"])
        path = at("/rollback/{}", ref)
        queued = given["queued"] or "keep"
        body = {"why": given["why"]}
        moved = await Calls(request).post(path, RollbackResult, body, queued=queued)
    except ApiProblem as problem:
        check_reader(request, problem)
        return await _moving(request, state, ref, template, given, problem)
    return fragment(request, "history/moved.html", headers=CHANGED, moved=moved)


@router.get(f"{VERSION}/activate")
@needs(Scope.READ)
async def activate_dialog(ref: str, request: Request, state: State) -> Response:
    """The consequences of activating this version."""
    return await _moving(request, state, ref, "history/activate.html")


@router.post(f"{VERSION}/activate")
@needs(Scope.EDIT)
async def activate_here(ref: str, request: Request, state: State) -> Response:
    """Make this staged version head."""
    form = await read_form(request)
    given = {"why": form.get("why")}
    try:
        path = at("/snapshots/{}/activate", ref)
        moved = await Calls(request).post(path, Activation, given)
    except ApiProblem as problem:
        check_reader(request, problem)
        return await _moving(request, state, ref, "history/activate.html", given, problem)
    return fragment(request, "history/moved.html", headers=CHANGED, moved=moved)


@router.get(f"{VERSION}/name")
@needs(Scope.READ)
async def name_dialog(ref: str, request: Request) -> Response:
    """The field for a name, and what a name is for."""
    version = await Calls(request).get(at("/snapshots/{}", ref), Snapshot)
    return refused(request, "history/name.html", None, {"name": ""}, version=version, named="")


@router.post(f"{VERSION}/name")
@needs(Scope.EDIT)
async def name_version(ref: str, request: Request) -> Response:
    """Give the version a name."""
    calls = Calls(request)
    given = {"name": (await read_form(request)).get("name").strip()}
    template = "history/name.html"
    try:
        named = await calls.post("/snapshots", Snapshot, {"name": given["name"], "version": ref})
    except ApiProblem as problem:
        check_reader(request, problem)
        version = await calls.get(at("/snapshots/{}", ref), Snapshot)
        return refused(request, template, problem, given, version=version, named="")
    return fragment(request, template, headers=CHANGED, version=named, named=given["name"])


@router.get(f"{VERSION}/revert")
@needs(Scope.READ)
async def revert_dialog(ref: str, request: Request, state: State) -> Response:
    """The consequences of taking this batch out, for later ones too."""
    return await _reverting(request, state, ref)


@router.post(f"{VERSION}/revert")
@needs(REVERTS.scope)
async def revert_here(ref: str, request: Request, state: State) -> Response:
    """Queue the job that takes this version's batch out of head's history."""
    form = await read_form(request)
    given = {name: form.get(name).strip() for name in ("head", "snapshot_name")}
    batch = await run_in_threadpool(_batch, state.store, ref)
    body = {"parent": given["head"] or None, "snapshot_name": given["snapshot_name"] or None}
    try:
        job = await Calls(request).post(at("/edits/{}/revert", batch), JobOut, body)
    except ApiProblem as problem:
        check_reader(request, problem)
        return await _reverting(request, state, ref, given, problem)
    return fragment(request, "history/job.html", headers=CHANGED, job=job)


def check_reader(request: Request, problem: ApiProblem) -> None:
    """Leave a refusal as it is if its dialog would show more than its key may read.

    Raises:
        ApiProblem: ``problem``.
    """
    if not caller_of(request).may(Scope.READ):
        raise problem


def refused(
    request: Request,
    template: str,
    problem: ApiProblem | None,
    given: Mapping[str, Any],
    **values: Any,
) -> Response:
    """A dialog with what was filled in, and with the reason if it was refused."""
    status, headers = 200, {}
    if problem is not None:
        status, headers = problem.status, DIALOG | problem.headers
    return fragment(request, template, status, headers, problem=problem, given=given, **values)


async def _moving(
    request: Request,
    state: State,
    ref: str,
    template: str,
    given: Mapping[str, Any] | None = None,
    problem: ApiProblem | None = None,
) -> Response:
    told = await consequences(state, Calls(request), ref)
    filled = {"why": "", "queued": "keep", **(given or {})}
    return refused(request, template, problem, filled, told=told)


async def consequences(state: State, calls: Calls, ref: str) -> Consequences:
    """The fate of facts, jobs and targets if head goes to a version.

    Raises:
        ApiProblem: as the interface answers.
    """
    version = await calls.get(at("/snapshots/{}", ref), Snapshot)
    head = (await run_in_threadpool(state.store.head.read)).version
    unfinished = [status.value for status in JobStatus if status not in TERMINAL]
    jobs = await calls.get("/jobs", Page[JobOut], status=unfinished, limit=MOST_JOBS)
    writers = [job.status for job in jobs.data if job.kind.lane is Lane.WRITE]
    queued = writers.count(JobStatus.QUEUED)
    return Consequences(
        version=version,
        head=head,
        found=await run_in_threadpool(_difference, state.store, head, version.id),
        queued=queued,
        running=len(writers) - queued,
        targets=await followers(calls, "head"),
    )


async def followers(calls: Calls, *refs: str) -> list[PushTarget]:
    """The targets that follow one of these references."""
    return [one for one in (await calls.get("/targets", TargetList)).data if one.follow in refs]


def _difference(store: Store, a: str, b: str) -> Difference | None:
    try:
        return difference(store, a, b)
    except CorruptFile:
        return None  # the way back from a damaged version stays open


def _batch(store: Store, ref: str) -> str:
    """The id of a version's batch; base has none, and what has none cannot be taken out.

    Raises:
        ApiProblem: 409.
    """
    version = store.versions.read(store.names.resolve(ref))
    if version.edit_id is None:
        raise ApiProblem("not_applied", f"{version.id} has no batch that could be taken out")
    return version.edit_id


async def _check_head(store: Store, expected: str) -> None:
    """Refuse a move whose consequences were told for another head.

    Raises:
        ApiProblem: 409.
    """
    head = (await run_in_threadpool(store.head.read)).version
    if head != expected:
        detail = f"head was {expected or 'unknown'} and is {head} now: look at what follows again"
        raise ApiProblem("version_conflict", detail)


async def _reverting(
    request: Request,
    state: State,
    ref: str,
    given: Mapping[str, Any] | None = None,
    problem: ApiProblem | None = None,
) -> Response:
    calls = Calls(request)
    version = await calls.get(at("/snapshots/{}", ref), Snapshot)
    head = (await run_in_threadpool(state.store.head.read)).version
    line = await run_in_threadpool(state.store.versions.lineage, head)
    places = [i for i, one in enumerate(line) if one.edit_id == version.edit_id]
    batch = line[places[0]] if places and version.edit_id else None
    values = {
        "version": version,
        "head": head,
        "batch": batch,
        "later": line[places[0] + 1 :] if batch else [],
        "parent": batch.parent if batch else None,
        "targets": await followers(calls, "head"),
    }
    return refused(
        request, "history/revert.html", problem, {"snapshot_name": "", **(given or {})}, **values
    )
