"""Keeps Redis consistent with the store's journal, the authority on unfinished jobs."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from fastapi.concurrency import run_in_threadpool

from service.api.counters import CANCELLED_JOBS
from service.contracts.jobs import TERMINAL, Job, JobStatus, now
from service.ops import logs
from service.queue import AsyncQueue, QueueDown, QueueFailure
from service.store import Store

PERIOD_S = 30.0
RETRY_S = 1.0
PATIENCE_S = 5.0
QUEUE_DOWN = (QueueDown, TimeoutError)
"""The queue cannot be used now, or does not answer within the caller's own patience."""

log = logging.getLogger(__name__)


class Reconciler:
    """Submits journaled jobs that Redis does not know and carries out cancels, in order.

    It runs when the api starts, when the queue failed during a request or was found emptied,
    and periodically: a Redis that came back empty is filled again, in the order in which jobs were
    accepted.  Every step is idempotent.
    """

    def __init__(self, store: Store, queue: AsyncQueue) -> None:
        self._store, self._queue = store, queue
        self._wanted = asyncio.Event()
        self.catching_up = True
        """Whether the queue may lack a job that is journaled."""

    def wake(self) -> None:
        """Check the queue soon, because it has failed."""
        self.catching_up = True
        self._wanted.set()

    async def submit(self, job: Job) -> None:
        """Queue a journaled job now, or, if jobs before it still wait for Redis, after them."""
        if self.catching_up:
            self.wake()
            return
        with logs.bound(job_id=job.id):
            try:
                async with asyncio.timeout(PATIENCE_S):
                    in_turn = await self._queue.submit_in_turn(job)
                if in_turn:
                    log.info("%s is queued", job.id)
                else:
                    log.warning("the queue was emptied; %s waits until it is filled again", job.id)
                    self.wake()
            except (QueueFailure, TimeoutError) as error:
                log.warning("%s is journaled and will be queued later: %s", job.id, error)
                self.wake()

    async def cancel(self, job: Job) -> None:
        """Carry out a cancel that the store remembers, now or when Redis is back."""
        if self.catching_up:
            self.wake()
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._cancel(job)
        except (QueueFailure, TimeoutError) as error:
            log.warning("the cancel of %s reaches the queue later: %s", job.id, error)
            self.wake()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._wanted.clear()
            try:
                await self._catch_up()
            except (QueueFailure, TimeoutError) as error:
                log.warning("the queue cannot be used: %s", error)
                self.catching_up = True
                await asyncio.sleep(RETRY_S)
                continue
            except Exception:
                log.exception("the queue may lack jobs that the store has")
            self.catching_up = self._wanted.is_set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), PERIOD_S)

    async def _catch_up(self) -> None:
        for job in await run_in_threadpool(self._store.journal.unfinished):
            if await self._queue.submit(job):
                with logs.bound(job_id=job.id, request_id=job.request_id):
                    log.info("%s is queued", job.id)
            if self._store.journal.cancel_requested(job.id):
                await self._cancel(job)
        await self._queue.mark_filled()

    async def _cancel(self, job: Job) -> None:
        await self._queue.submit(job)  # unknown to this Redis: cancelled like any queued job
        if await self._queue.request_cancel(job) is JobStatus.CANCELLED:
            await run_in_threadpool(self._save_cancelled, job.id)

    def _save_cancelled(self, job_id: str) -> None:
        """Save the end of a job that never began; a record saved by the worker is kept."""
        job = self._store.journal.read(job_id)
        if job.status not in TERMINAL:
            ended = job.model_copy(update={"status": JobStatus.CANCELLED, "finished_at": now()})
            self._store.journal.save(ended)
            CANCELLED_JOBS.labels(job.kind.value, ended.status.value).inc()
