"""Calls for jobs: their states, their events, waiting for their ends."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import httpx

from service.client.asynchronous.aside import sleep
from service.client.asynchronous.transport import Transport
from service.client.errors import JobTimeout, Unreachable, translated
from service.client.requests import JobState, OnProgress, given, segment
from service.contracts.jobs import TERMINAL, JobKind, JobStatus, Progress
from service.contracts.schemas import JobOut

PAUSE_S = 0.3
"""After a stream of events that has ended at once."""
SILENT = 100
"""So many of them in a row, half a minute, are as good as no service."""


class JobCalls(Transport):
    """``/jobs``."""

    async def job(self, job_id: str) -> JobOut:
        """The current state of a job."""
        return await self._model(JobOut, "GET", f"/jobs/{segment(job_id)}")

    def jobs(
        self, status: JobStatus | None = None, kind: JobKind | None = None
    ) -> AsyncIterator[JobOut]:
        """Jobs, newest first, without their results."""
        asked = {"status": status and str(status), "kind": kind and str(kind)}
        return self._pages(JobOut, "/jobs", given(asked))

    async def cancel(self, job_id: str) -> JobOut:
        """Ask a queued or running job to end."""
        return await self._model(JobOut, "POST", f"/jobs/{segment(job_id)}/cancel")

    async def follow(
        self, job_id: str, timeout: float | None = None
    ) -> AsyncGenerator[JobState, None]:
        """The status and progress of a job at every step, until it has ended.

        After a broken connection, the events continue where they broke off.

        Raises:
            JobTimeout: it did not end within ``timeout`` seconds.
            ApiError: there is no such job.
            Unreachable: the service has been away for half a minute, or has ended every stream of
                events at once for as long, without a ``timeout``.
        """
        silent = 0
        deadline = None if timeout is None else time.monotonic() + timeout
        state, last_id = JobState(JobStatus.QUEUED, Progress()), ""
        while True:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            url, patience = f"/jobs/{segment(job_id)}/events", self._patience(deadline)
            began, before = time.monotonic(), last_id
            broken = Unreachable(f"{url} ends at once, before the job has ended")
            try:
                async with aclosing(
                    self._events("GET", url, headers=headers, timeout=patience)
                ) as events:
                    async for event in events:
                        last_id = event.id or last_id
                        with translated():
                            state = state.after(event)
                        yield state
                        if state.status in TERMINAL:
                            return
                        if deadline is not None and time.monotonic() >= deadline:
                            break
            except Unreachable as error:
                broken = error
                if not await self._reachable_before(deadline) and deadline is None:
                    raise
            if deadline is not None and time.monotonic() >= deadline:
                raise JobTimeout(f"{job_id} has not ended after {timeout} s")
            if last_id != before or time.monotonic() - began > 1:
                silent = 0
                continue
            silent += 1
            if silent >= SILENT and deadline is None:
                raise broken
            await sleep(PAUSE_S)

    async def wait(
        self, job_id: str, on_progress: OnProgress | None = None, timeout: float | None = None
    ) -> JobOut:
        """Wait until a job has ended; ``on_progress`` is called at every step.

        A job that failed or was cancelled is returned like one that succeeded: look at its
        ``status`` and ``error``.

        Raises:
            JobTimeout, ApiError, Unreachable: as ``follow``.
        """
        async with aclosing(self.follow(job_id, timeout)) as states:
            async for state in states:
                if on_progress is not None:
                    on_progress(*state)
        return await self.job(job_id)

    def _patience(self, deadline: float | None) -> httpx.Timeout:
        """How long an event may be waited for: at most until the deadline."""
        left = self._http.timeout.read
        if deadline is not None:
            left = max(0.1, min(left or 60.0, deadline - time.monotonic()))
        return httpx.Timeout(self._http.timeout.connect, read=left)
