"""``/metrics``: the api's counters, the state of the queue, the worker's published metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

from service.api.counters import REGISTRY
from service.api.http.access import needs
from service.api.http.problems import documented
from service.api.operations.workers import described
from service.api.reconcile import QUEUE_DOWN
from service.api.state import ApiState, State
from service.contracts.jobs import Lane
from service.contracts.schemas import WorkerInfo
from service.contracts.schemas.access import Scope
from service.ops.metrics_page import families_of, merged
from service.ops.release import program_version
from service.queue import WorkerBeat
from service.store import StoreError
from service.store.targets.status import target_status

router = APIRouter(tags=["health"])
PATIENCE_S = 3.0


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus' text format, or OpenMetrics where that is accepted.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **documented(),
    },
)
@needs(Scope.READ)
async def metrics(request: Request, state: State) -> Response:
    """Metrics of api, queue and worker; without a queue only those of the api."""
    pages, waiting = await _queue(state)
    served = await run_in_threadpool(_served, state)
    targets = await run_in_threadpool(_targets, state)
    parts = {
        "api": [*REGISTRY.collect(), *served, *waiting, *targets],
        **{process: families_of(page) for process, page in pages.items()},
    }
    content, content_type = merged(parts, request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": content_type})


async def _queue(state: ApiState) -> tuple[dict[str, str], list[Metric]]:
    """Return the live workers' pages of metrics, by process, and the state of lanes and workers."""
    alive = GaugeMetricFamily("jeep_worker_up", "Whether a worker lives.")
    labels = ("lane", "taken_by")
    depth = GaugeMetricFamily("jeep_queue_depth", "Jobs that wait for their turn.", labels=labels)
    oldest = GaugeMetricFamily(
        "jeep_queue_oldest_age_seconds", "How long the first of them waits.", labels=labels
    )
    pages: dict[str, str] = {}
    workers: list[Metric] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            page = await state.queue.worker_metrics()
            pages = await state.queue.follower_metrics()
            pages = {f"follower-{one}": text for one, text in pages.items()}
            pages |= {} if page is None else {"worker": page}
            workers = _workers(await state.queue.workers())
            alive.add_metric((), float(await state.queue.worker_alive() is not None))
            for lane in Lane:
                for taker, waiting in (await state.queue.waiting_for(lane)).items():
                    depth.add_metric((lane.value, taker), waiting.jobs)
                    oldest.add_metric((lane.value, taker), waiting.oldest_seconds)
    except QUEUE_DOWN:
        alive.samples[:] = []
        alive.add_metric((), 0.0)
    return pages, [alive, depth, oldest, *workers]


def _workers(beats: Sequence[WorkerBeat]) -> list[Metric]:
    """Return what the heartbeats of the writer and its followers say."""
    labels = ("worker", "role")
    ready = GaugeMetricFamily(
        "jeep_worker_ready", "Whether a worker is neither draining nor stuck.", labels=labels
    )
    load = GaugeMetricFamily("jeep_worker_load", "Requests that a worker holds.", labels=labels)
    head = GaugeMetricFamily(
        "jeep_worker_head_version", "N where a worker has followed head to vN.", labels=labels
    )
    age = GaugeMetricFamily(
        "jeep_worker_heartbeat_age_seconds", "How long ago a worker was heard.", labels=labels
    )
    away = GaugeMetricFamily(
        "jeep_worker_api_away_seconds",
        "How long a follower that fetches versions has not been answered; 0: it is answered.",
        labels=labels,
    )
    cached = GaugeMetricFamily(
        "jeep_worker_cached_bytes", "What such a follower keeps on its own disk.", labels=labels
    )
    for one in described(beats, None):
        named = (one.instance, one.role)
        ready.add_metric(named, float(one.state == "ready"))
        load.add_metric(named, one.load)
        age.add_metric(named, one.heartbeat_age_s)
        if one.head is not None:
            head.add_metric(named, int(one.head.removeprefix("v")))
        if one.fetching is not None:
            away.add_metric(named, one.fetching.away_s or 0.0)
            cached.add_metric(named, one.fetching.cached_bytes)
    return [ready, load, head, age, away, cached]


def _targets(state: ApiState) -> Iterable[Metric]:
    """Return what every target answers with, and how far it is behind."""
    labels = ("target", "kind")
    has = GaugeMetricFamily(
        "jeep_target_version", "N where a target answers with vN; -1: with none.", labels=labels
    )
    synced = GaugeMetricFamily(
        "jeep_target_synced", "Whether a target has the version that it follows.", labels=labels
    )
    versions = GaugeMetricFamily(
        "jeep_target_lag_versions", "Moves that a target has not followed.", labels=labels
    )
    seconds = GaugeMetricFamily(
        "jeep_target_lag_seconds", "How long ago the first of them was.", labels=labels
    )
    for record in state.store.targets.all():
        found = target_status(state.store, record)
        named = (found.name, found.kind.value)
        has.add_metric(named, int((found.version or "v-1").removeprefix("v")))
        synced.add_metric(named, float(found.status == "synced"))
        versions.add_metric(named, found.lag.versions)
        seconds.add_metric(named, found.lag.seconds)
    return has, synced, versions, seconds


def _served(state: ApiState) -> Iterable[Metric]:
    """Return the served program version, model and number of head."""
    info = InfoMetricFamily("jeep_version", "The program's version and the model that it serves.")
    head = GaugeMetricFamily("jeep_head_version", "N where head is vN.")
    try:
        model: WorkerInfo | None = state.store.base.info()
        known = {} if model is None else model.model_dump(include={"model", "dtype", "device"})
        info.add_metric((), {"version": program_version(), **known})
        if model is not None:
            head.add_metric((), int(state.store.head.read().version.removeprefix("v")))
    except StoreError:
        pass  # /readyz says so
    return info, head
