"""``create_app``: assembles the parts of the api."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service.api.console import add_console
from service.api.http import problems
from service.api.http.access import Gate
from service.api.http.auditing import Audit
from service.api.http.limits import Closing, RateLimit, Streams
from service.api.http.middleware import (
    BodyLimit,
    BrowserHeaders,
    RequestIds,
    Shapes,
    Unexpected,
)
from service.api.http.openapi import DESCRIPTION, Api
from service.api.http.routing import routes_of
from service.api.http.sessions import SIGN_INS_PER_MINUTE, Sessions
from service.api.model import ModelCache
from service.api.openai import tokenizers
from service.api.openai.app import PATH as OPENAI
from service.api.openai.app import openai_app
from service.api.openai.errors import openai_error
from service.api.operations import audit, documentation, following, health, metrics, workers
from service.api.reconcile import Reconciler
from service.api.resources import (
    drifts,
    edits,
    evaluations,
    explain,
    exports,
    facts,
    generate,
    heads,
    hypernetworks,
    jobs,
    probes,
    reverts,
    snapshots,
    suites,
    targets,
)
from service.api.state import ApiState
from service.ops import tracing
from service.ops.release import program_version
from service.queue import AsyncQueue, Keys, connect_async
from service.queue.buckets import TokenBuckets
from service.settings import Settings, SettingsError
from service.store import Store
from service.store.maintenance.room import Room

ROUTES = (
    edits,
    reverts,
    facts,
    jobs,
    generate,
    explain,
    snapshots,
    exports,
    heads,
    suites,
    evaluations,
    drifts,
    probes,
    hypernetworks,
    targets,
    tokenizers,
    health,
    workers,
    following,
    metrics,
    audit,
    documentation,
)


CANCEL_AGAIN_S = 0.2
"""How long a task that is cancelled may take before it is cancelled again."""
KEPT_MANIFESTS = 1000
"""Of versions, in memory: lists come from the index, and one that is asked for is read again."""


def create_app(settings: Settings) -> FastAPI:
    """The api over a store and a queue.  It starts, answers and queues without either a worker
    or a running Redis.

    Raises:
        SettingsError: no queue address is configured.
        StoreError: the store's directory cannot be used.
    """
    if settings.redis_url is None:
        raise SettingsError("JEEP_REDIS_URL: the api needs the address of a queue")
    store = Store.open(settings.store, idempotency_hours=settings.idempotency_hours)
    store.versions.keeps = KEPT_MANIFESTS
    redis, keys = connect_async(settings.redis_url), Keys(store.id)
    queue = AsyncQueue(redis, keys, settings.stall_s)
    buckets = TokenBuckets(redis, keys, settings.rate_per_minute / 60, settings.rate_burst)
    tries = TokenBuckets(redis, keys, SIGN_INS_PER_MINUTE / 60, SIGN_INS_PER_MINUTE)
    sessions = Sessions(store, settings, tries)
    state = ApiState(
        settings,
        store,
        queue,
        ModelCache(store),
        Reconciler(store, queue),
        Streams(settings.max_streams),
        Closing(),
        Room(store.root, settings.max_store_mb, settings.min_free_mb),
        sessions,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(state.reconciler.run())
        try:
            yield
        finally:
            while not task.done():  # one cancellation may be lost: see `Closing.limit`
                task.cancel()
                await asyncio.wait([task], timeout=CANCEL_AGAIN_S)
            await queue.close()

    app = Api(
        title="JEEP",
        version=program_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry=tracing.of_fastapi(),
        openapi_url=None,  # served by its own route, which needs a scope
    )
    app.state.api = state
    app.router.routes.extend(routes_of(*ROUTES))
    app.mount(OPENAI, openai_app(state))
    problems.install(app)
    streamed = {"/suites": settings.max_suite_bytes}
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, streamed=streamed)
    rate = RateLimit(buckets, settings)
    app.add_middleware(Gate, settings=settings, store=store, rate=rate, sessions=sessions)
    app.add_middleware(Unexpected)
    app.add_middleware(Audit, store=store)
    app.add_middleware(Shapes, shapes={OPENAI: openai_error})
    if settings.console == "on":
        add_console(app)
    app.add_middleware(BrowserHeaders)
    app.add_middleware(RequestIds)
    return app
