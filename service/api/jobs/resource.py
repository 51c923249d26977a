"""A resource that is a job: what edits, evaluations, probes and others have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from service.api.http.paging import Page, take
from service.api.http.problems import ApiProblem, not_found
from service.api.jobs.events import current
from service.api.jobs.submitting import journaled, submit
from service.api.state import ApiState
from service.contracts.jobs import Job, JobKind, JobStatus
from service.contracts.kinds import payload_model, result_model
from service.contracts.schemas import JobOut
from service.contracts.schemas.access import Scope
from service.store import Store, UnknownJob

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)
S = TypeVar("S", bound=BaseModel)


class JobResource(Generic[P, R]):
    """The jobs of one kind, shown at the kind's path under ids of its own.

    ``P`` and ``R`` are the models of payload and result that the registry names for the kind.
    """

    def __init__(self, kind: JobKind) -> None:
        self.kind, self._spec = kind, kind.spec
        self.scope = Scope(self._spec.scope)
        self.id_pattern = rf"^{self._spec.prefix}[0-9A-Z]{{26}}$"
        """Of the ids that its lists take as cursors."""

    # ------------------------------------------------------------ ids

    def id_of(self, job_id: str) -> str:
        """The resource's id, as in ``KindSpec.resource_id``."""
        return self._spec.resource_id(job_id)

    def job_id_of(self, resource_id: str) -> str:
        """The job of a resource."""
        return "job_" + resource_id.removeprefix(self._spec.prefix)

    def location(self, job: Job) -> str:
        """The path where a job's result is shown."""
        return f"{self._spec.path}/{self.id_of(job.id)}"

    # ------------------------------------------------------------ submitting

    def journaled(
        self, state: ApiState, payload: Callable[[str], P], key: str | None, body: dict[str, Any]
    ) -> tuple[Job, bool]:
        """Journal a job; False and the earlier job if ``key`` came before with this ``body``.

        Raises:
            As `service.api.jobs.submitting.journaled`.
        """
        return journaled(state, self.kind, payload, key, body)

    async def submit(
        self, state: ApiState, request: Request, response: Response, job: Job, fresh: bool
    ) -> JobOut:
        """Queue a journaled job; its answer, whose ``Location`` is where the result is shown."""
        return await submit(state, request, response, job, fresh, self.location(job))

    # ------------------------------------------------------------ showing

    def stored(self, store: Store, resource_id: str) -> Job:
        """The stored job of a resource.

        Raises:
            ApiProblem: 404.
        """
        try:
            job = store.journal.read(self.job_id_of(resource_id))
        except UnknownJob:
            raise not_found(self.kind.value, resource_id) from None
        if job.kind is not self.kind or self.id_of(job.id) != resource_id:
            raise not_found(self.kind.value, resource_id)
        return job

    async def find(self, state: ApiState, resource_id: str) -> Job:
        """The job of a resource as it is now.

        Raises:
            ApiProblem: 404.
        """
        return await current(state, await run_in_threadpool(self.stored, state.store, resource_id))

    async def ended(self, state: ApiState, resource_id: str) -> tuple[Job, R]:
        """The job of a resource, and its result.

        Raises:
            ApiProblem: 404; 409 while it has none.
        """
        job = await self.find(state, resource_id)
        result = self.result(job)
        if result is None:
            what = f"the {self.kind.value} is {job.status.value}"
            raise ApiProblem("no_result", f"{what}: it has no result (see /jobs/{job.id})")
        return job, result

    async def page(
        self, state: ApiState, limit: int, after: str | None, summary: Callable[[Job], S]
    ) -> Page[S]:
        """A page of the kind's jobs, newest first; ``summary`` has the resource's id as ``id``."""
        cursor = None if after is None else self.job_id_of(after)
        jobs: Iterator[Job] = state.store.journal.all(kind=self.kind, after=cursor)
        taken, has_more = await run_in_threadpool(take, jobs, limit)
        data = [summary(await current(state, job)) for job in taken]
        following = self.id_of(taken[-1].id) if has_more else None
        return Page(data=data, has_more=has_more, next=following)

    def payload(self, job: Job) -> P:
        """The payload of a job."""
        return cast(P, payload_model(self.kind).model_validate(job.payload))

    def result(self, job: Job) -> R | None:
        """The result of a job that has succeeded."""
        if job.status is not JobStatus.SUCCEEDED or job.result is None:
            return None
        return cast(R, result_model(self.kind).model_validate(job.result))

    def shown(self, job: Job) -> dict[str, Any]:
        """The fields that every resource shows of its job."""
        return {
            "id": self.id_of(job.id),
            "job_id": job.id,
            "status": job.status,
            "created_at": job.created_at,
            "progress": job.progress,
            "result": self.result(job),
            "error": job.error,
        }

    async def report(self, state: ApiState, job: Job, name: str) -> Path:
        """The path of a file of a job's report, verified by its hash.

        Raises:
            ApiProblem: 404 for a name that reports of this kind do not have.
            CorruptFile: the file is damaged or missing.
        """
        if not any(fnmatchcase(name, pattern) for pattern in self._spec.reports):
            raise not_found("file", name)
        return await run_in_threadpool(state.store.reports.path, job.id, name)
