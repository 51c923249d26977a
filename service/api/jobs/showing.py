"""Jobs as the api shows and cancels them."""

from __future__ import annotations

from fastapi.concurrency import run_in_threadpool

from service.api.jobs.events import current
from service.api.state import ApiState
from service.contracts.jobs import TERMINAL, Job
from service.contracts.schemas import JobOut


def job_out(job: Job) -> JobOut:
    """A job as the api shows it, with those fields of its payload that `JobOut` has."""
    own = {**job.model_dump(exclude={"payload"}), "resource_id": job.kind.spec.resource_id(job.id)}
    return JobOut.model_validate({**job.payload, **own})


async def cancel(state: ApiState, job_id: str) -> Job:
    """Cancel a job unless it has ended, and return it as it is now.

    Raises:
        UnknownJob: answered with 404.
    """
    job = await run_in_threadpool(state.store.journal.read, job_id)
    if job.status not in TERMINAL:
        # survives the loss of Redis
        await run_in_threadpool(state.store.journal.request_cancel, job_id)
        await state.reconciler.cancel(job)
        job = await run_in_threadpool(state.store.journal.read, job_id)
    return await current(state, job)
