"""Moving head and naming a version: what each dialog says before anything happens, and doing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.console.calls import Calls, at
from service.api.console.pages.history.dialogs import Dialog, Given, Values
from service.api.console.pages.history.differing import Difference, difference
from service.api.console.pages.history.version import VERSION
from service.api.http.access import needs
from service.api.http.paging import Page
from service.api.http.problems import ApiProblem
from service.api.resources.reverts import REVERTS
from service.api.resources.targets import TargetList
from service.api.state import ApiState, State
from service.contracts.jobs import TERMINAL, JobStatus, Lane
from service.contracts.schemas import Activation, JobOut, Manifest, RollbackResult, Snapshot
from service.contracts.schemas.access import Scope
from service.contracts.schemas.targets import PushTarget
from service.store import CorruptFile, Store
from service.store.index import listing

router = APIRouter()

JOBS_AT_ONCE = 200


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


async def consequences(state: ApiState, calls: Calls, ref: str) -> Consequences:
    """The fate of facts, jobs and targets if head goes to a version.

    Raises:
        ApiProblem: as the interface answers.
    """
    version = await calls.get(at("/snapshots/{}", ref), Snapshot)
    head = (await run_in_threadpool(state.store.head.read)).version
    unfinished = [status.value for status in JobStatus if status not in TERMINAL]
    writers: list[JobStatus] = []
    after, more = None, True
    while more:
        query = {"status": unfinished, "limit": JOBS_AT_ONCE, "after": after}
        jobs = await calls.get("/jobs", Page[JobOut], **query)
        writers += [job.status for job in jobs.data if job.kind.lane is Lane.WRITE]
        after, more = jobs.next, jobs.has_more
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


async def _moving(request: Request, state: ApiState, ref: str) -> Values:
    return {"told": await consequences(state, Calls(request), ref)}


async def _naming(request: Request, state: ApiState, ref: str) -> Values:
    return {"version": await Calls(request).get(at("/snapshots/{}", ref), Snapshot)}


def _batch_of(
    store: Store, edit_id: str | None, head: str
) -> tuple[Manifest | None, list[Manifest]]:
    """The version of head's history that holds a batch, and those after it, oldest first."""
    where = listing.applied_in(store, edit_id, head) if edit_id else None
    if where is None:
        return None, []
    return store.versions.read(where), listing.fork(store, where, head).own_b


async def _reverting(request: Request, state: ApiState, ref: str) -> Values:
    """The batch that would be taken out, and those after it that are edited again."""
    calls = Calls(request)
    version = await calls.get(at("/snapshots/{}", ref), Snapshot)
    head = (await run_in_threadpool(state.store.head.read)).version
    batch, later = await run_in_threadpool(_batch_of, state.store, version.edit_id, head)
    return {
        "version": version,
        "head": head,
        "batch": batch,
        "later": later,
        "parent": batch.parent if batch else None,
        "targets": await followers(calls, "head"),
    }


ROLLBACK = Dialog(
    "history/roll_back.html",
    "history/moved.html",
    {"why": "", "queued": "keep", "head": ""},
    _moving,
)
ACTIVATION = Dialog("history/activate.html", "history/moved.html", {"why": ""}, _moving)
NAME = Dialog("history/name.html", "history/named.html", {"name": ""}, _naming)
REVERT = Dialog(
    "history/revert.html", "history/job.html", {"head": "", "snapshot_name": ""}, _reverting
)


@router.get(f"{VERSION}/roll-back")
@needs(Scope.READ)
async def roll_back_dialog(ref: str, request: Request, state: State) -> Response:
    """The consequences of a rollback to this version."""
    return await ROLLBACK.show(request, state, ref)


@router.post(f"{VERSION}/roll-back")
@needs(Scope.EDIT)
async def roll_back_here(ref: str, request: Request, state: State) -> Response:
    """Move head to this version, unless it is no longer where the dialog said it was."""

    async def act(given: Given) -> Values:
        await _check_head(state.store, given["head"])
        path, queued = at("/rollback/{}", ref), given["queued"] or "keep"
        body = {"why": given["why"]}
        return {"moved": await Calls(request).post(path, RollbackResult, body, queued=queued)}

    return await ROLLBACK.carry_out(request, state, ref, act)


@router.get(f"{VERSION}/activate")
@needs(Scope.READ)
async def activate_dialog(ref: str, request: Request, state: State) -> Response:
    """The consequences of activating this version."""
    return await ACTIVATION.show(request, state, ref)


@router.post(f"{VERSION}/activate")
@needs(Scope.EDIT)
async def activate_here(ref: str, request: Request, state: State) -> Response:
    """Make this staged version head."""

    async def act(given: Given) -> Values:
        path = at("/snapshots/{}/activate", ref)
        return {"moved": await Calls(request).post(path, Activation, {"why": given["why"]})}

    return await ACTIVATION.carry_out(request, state, ref, act)


@router.get(f"{VERSION}/name")
@needs(Scope.READ)
async def name_dialog(ref: str, request: Request, state: State) -> Response:
    """The field for a name, and what a name is for."""
    return await NAME.show(request, state, ref)


@router.post(f"{VERSION}/name")
@needs(Scope.EDIT)
async def name_version(ref: str, request: Request, state: State) -> Response:
    """Give the version a name."""

    async def act(given: Given) -> Values:
        body = {"name": given["name"], "version": ref}
        named = await Calls(request).post("/snapshots", Snapshot, body)
        return {"version": named, "named": given["name"]}

    return await NAME.carry_out(request, state, ref, act)


@router.get(f"{VERSION}/revert")
@needs(Scope.READ)
async def revert_dialog(ref: str, request: Request, state: State) -> Response:
    """The consequences of taking this batch out, for later ones too."""
    return await REVERT.show(request, state, ref)


@router.post(f"{VERSION}/revert")
@needs(REVERTS.scope)
async def revert_here(ref: str, request: Request, state: State) -> Response:
    """Queue the job that takes this version's batch out of head's history."""

    async def act(given: Given) -> Values:
        batch = await run_in_threadpool(_batch, state.store, ref)
        body = {"parent": given["head"] or None, "snapshot_name": given["snapshot_name"] or None}
        return {"job": await Calls(request).post(at("/edits/{}/revert", batch), JobOut, body)}

    return await REVERT.carry_out(request, state, ref, act)
