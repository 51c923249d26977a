"""State: what is ready and what is missing, lanes, memory, versions, targets, keys, limits."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.console.calls import Calls
from service.api.console.pages.readiness import readiness
from service.api.console.rendering import fragment, page, size
from service.api.http.access import caller_of, needs
from service.api.http.paging import Page
from service.api.http.sessions import CONSOLE
from service.api.operations.workers import described, head_of
from service.api.reconcile import QUEUE_DOWN
from service.api.resources.targets import TargetList
from service.api.state import ApiState, State
from service.contracts.jobs import TERMINAL, JobStatus, Lane
from service.contracts.schemas import JobOut, Snapshot
from service.contracts.schemas.access import ApiKey, Scope
from service.contracts.wire import Waiting, WorkerBeat
from service.ops.metrics_page import families_of
from service.store import StoreError

router = APIRouter()

PATIENCE_S = 3.0
VERSIONS_SHOWN = 10
JOBS_SHOWN = 8
PARTS = {
    "queue": "Queue: takes jobs and requests",
    "worker": "Worker: holds the model and computes",
    "model": "Model: loaded at least once",
    "head": "Head: the version that answers",
}
"""What an edit needs, as /readyz names it, in the order in which one leads to the next."""
LANES = {Lane.WRITE: "edits and reverts", Lane.READ: "evaluations, probes and other jobs"}
MEMORIES = {"jeep_host_memory_bytes": "host", "jeep_gpu_memory_bytes": "GPU"}
RESIDENT = "process_resident_memory_bytes"


@dataclass(frozen=True)
class Memory:
    """One memory in parts that add up to ``total`` bytes, without the free part."""

    name: str
    parts: Mapping[str, float]
    total: float

    @property
    def used(self) -> float:
        """Bytes in use."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Limit:
    """A limit: its setting, what it counts, how much is in use (None: not counted here), most."""

    setting: str
    what: str
    used: str | None
    most: str


@router.get(f"{CONSOLE}/state")
@needs(Scope.READ)
async def state_page(request: Request, state: State) -> Response:
    """The page."""
    calls = Calls(request)
    may_see_keys = caller_of(request).may(Scope.ADMIN)
    return page(
        request,
        "state.html",
        **await _live(state, calls),
        targets=(await calls.get("/targets", TargetList)).data,
        keys=await run_in_threadpool(_keys, state) if may_see_keys else None,
        limits=await run_in_threadpool(limits, state),
        info=await run_in_threadpool(_info, state),
    )


@router.get(f"{CONSOLE}/state/live")
@needs(Scope.READ)
async def state_live(request: Request, state: State) -> Response:
    """The part of the page that changes while one looks."""
    return fragment(request, "parts/live.html", **await _live(state, Calls(request)))


@router.get(f"{CONSOLE}/state/versions")
@needs(Scope.READ)
async def state_versions(request: Request, state: State) -> Response:
    """The newest versions, by themselves as thousands of them take a moment to read."""
    found = await Calls(request).get("/snapshots", Page[Snapshot], limit=VERSIONS_SHOWN)
    named = await run_in_threadpool(state.store.names.all)
    return fragment(
        request,
        "parts/state_versions.html",
        versions=found.data,
        more=found.has_more,
        named=len(set(named.values())),
    )


async def _live(state: ApiState, calls: Calls) -> dict[str, Any]:
    ready, missing = await readiness(calls)
    beats, waiting, metrics = await _queue(state)
    beat = next((one for one in beats if one.role == "writer"), None)
    head = await run_in_threadpool(head_of, state.store)
    unfinished = [status.value for status in JobStatus if status not in TERMINAL]
    jobs = await calls.get("/jobs", Page[JobOut], status=unfinished, limit=JOBS_SHOWN)
    return {
        "ready": ready,
        "parts": [(name, PARTS[name], _said(name, missing)) for name in PARTS],
        "beat": beat,
        "workers": described(beats, head),
        "lanes": [(LANES[lane], waiting.get(lane)) for lane in Lane],
        "memories": memories(metrics or ""),
        "jobs": jobs.data,
        "more_jobs": jobs.has_more,
    }


def _said(part: str, missing: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a part is missing; None where it is there."""
    return next((str(one["message"]) for one in missing if one["part"] == part), None)


async def _queue(state: ApiState) -> tuple[list[WorkerBeat], dict[Lane, Waiting], str | None]:
    """The workers' heartbeats, what waits in each lane, and the writer's metrics, if they come."""
    waiting: dict[Lane, Waiting] = {}
    beats: list[WorkerBeat] = []
    metrics = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            beats = await state.queue.workers()
            metrics = await state.queue.worker_metrics()
            for lane in Lane:
                waiting[lane] = await state.queue.waiting(lane)
    except QUEUE_DOWN:
        pass  # the part "queue" says so
    return beats, waiting, metrics


def memories(metrics: str) -> list[Memory]:
    """The memories on a worker's page of metrics; those without figures are left out."""
    found = []
    families = {family.name: family for family in families_of(metrics)}
    for name, title in MEMORIES.items():
        samples = families[name].samples if name in families else []
        # of a worker on several GPUs one memory each
        devices = list(dict.fromkeys(sample.labels.get("device", "") for sample in samples))
        for device in devices:
            parts = {
                sample.labels["kind"]: sample.value
                for sample in samples
                if sample.labels.get("device", "") == device
            }
            total = sum(parts.values())
            taken = {kind: n for kind, n in parts.items() if kind not in ("free", "available")}
            shown = title if len(devices) == 1 else f"{title} {device}"
            found.append(Memory(shown, taken, total))
    if RESIDENT in families and found:
        resident = families[RESIDENT].samples[0].value
        found.insert(0, Memory("worker", {"resident": resident}, found[0].total))
    return found


def _keys(state: ApiState) -> list[ApiKey]:
    """All keys, those in use first."""
    return sorted(state.store.keys.all(), key=lambda key: key.revoked_at is not None)


def _info(state: ApiState) -> Any:
    try:
        return state.store.base.info()
    except StoreError:
        return None  # /readyz says so


def limits(state: ApiState) -> list[Limit]:
    """The limits of a service that its readers may reach, with what is in use."""
    settings = state.settings
    mb, free = 2**20, shutil.disk_usage(state.store.root).free
    most = "no limit" if settings.max_store_mb is None else size(settings.max_store_mb * mb)
    rate = "no limit"
    if settings.rate_per_minute:
        rate = f"{settings.rate_per_minute:,.6g} a minute, {settings.rate_burst:,} at once"
    listed = [
        ("rate_per_minute", "requests of one key", None, rate),
        ("max_queue", "jobs that have not ended", f"{state.store.journal.count_open():,}", None),
        ("max_streams", "event streams", f"{state.streams.open:,}", None),
        ("max_store_mb", "size of the store", size(state.room.used()), most),
        (
            "min_free_mb",
            "free on its disk",
            size(free),
            f"at least {size(settings.min_free_mb * mb)}",
        ),
        ("max_body_bytes", "one request's body", None, size(settings.max_body_bytes)),
        ("max_facts", "facts of one edit", None, None),
        ("max_prompts", "prompts × versions", None, None),
        ("max_prompt_tokens", "tokens of a prompt", None, None),
        ("max_new_tokens", "tokens of an answer", None, None),
        ("max_targets", "targets", None, None),
        ("generate_timeout_s", "time for an answer", None, f"{settings.generate_timeout_s:g} s"),
    ]
    return [
        Limit(f"JEEP_{name.upper()}", what, used, said or f"{getattr(settings, name):,}")
        for name, what, used, said in listed
    ]
