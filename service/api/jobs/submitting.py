"""From a valid request to a queued job, and its answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated, Any

from fastapi import Header, Request, Response
from pydantic import BaseModel

from jeep_core.errors import JeepError
from service.api.http.access import caller_of
from service.api.http.auditing import queued
from service.api.http.problems import ApiProblem, invalid, parameter_error
from service.api.jobs.events import current, wait_for_end
from service.api.jobs.showing import job_out
from service.api.state import ApiState
from service.contracts.jobs import TERMINAL, Job, JobKind, new_id, now
from service.contracts.schemas import JobOut
from service.contracts.schemas.access import Caller
from service.ops import logs, tracing
from service.store import Claim, JobExists, KeyReused, StoreFull

LONGEST_WAIT_S = 300
KEY = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")
KeyHeader = Annotated[
    str | None, Header(description="Repeating a request with it gives the same job.")
]
PreferHeader = Annotated[str, Header(description="`wait=N`")]


def check_key(key: str | None) -> None:
    """Refuse a malformed Idempotency-Key.

    Raises:
        ApiProblem: 422.
    """
    if key is not None and not KEY.fullmatch(key):
        message = "must be 1 to 255 visible ASCII characters"
        raise invalid([parameter_error("Idempotency-Key", "bad_key", message)])


def journaled(
    state: ApiState,
    kind: JobKind,
    payload: Callable[[str], BaseModel],
    key: str | None,
    body: dict[str, Any],
) -> tuple[Job, bool]:
    """Journal a job; False and the earlier job if ``key`` came before with this ``body``.

    ``payload`` makes the payload for a job id, or refuses; it is not called for a repeated
    request, which therefore finds its job even if head has moved.

    Raises:
        ApiProblem: 429 if too many jobs wait, what ``payload`` raises, 422 for a key that came
            with another body.
        StoreFull: there is no room for another job.
    """
    job_id = new_id("job")
    if key is not None:
        claim = _claim(state, key, body, job_id)
        job_id = claim.job_id
        if not claim.fresh:
            return state.store.journal.read(job_id), False
    try:
        state.check_room()
        made = payload(job_id)
    except (ApiProblem, JeepError, StoreFull):
        if key is not None:
            state.store.journal.release_key(key, job_id)
        raise
    job = Job(
        id=job_id,
        kind=kind,
        payload=made.model_dump(mode="json"),
        request_id=logs.request_id(),
        traceparent=tracing.traceparent(),
        created_at=now(),
    )
    try:
        state.store.journal.add(job)
    except JobExists:  # the same key, at the same moment
        return state.store.journal.read(job_id), False
    return job, True


async def submit(
    state: ApiState, request: Request, response: Response, job: Job, fresh: bool, location: str
) -> JobOut:
    """Queue a journaled job, or return its current state; the answer, and its headers."""
    queued(request, job.id)
    response.headers["Location"] = location
    if fresh:
        await state.reconciler.submit(job)
        return job_out(job)
    response.headers["Idempotency-Replayed"] = "true"
    return job_out(await current(state, job))


async def submit_and_wait(
    state: ApiState, request: Request, job: Job, fresh: bool, prefer: str, location: str = ""
) -> Response:
    """Queue a journaled job, and answer as `accepted` does."""
    queued(request, job.id)
    if fresh:
        await state.reconciler.submit(job)
    return await accepted(state, caller_of(request), job, fresh, prefer, location)


async def accepted(
    state: ApiState, caller: Caller, job: Job, fresh: bool, prefer: str, location: str = ""
) -> Response:
    """202 with the job, or 200 if it ended within the time the client prefers to wait.

    A preference is not applied while all places for open answers are taken.
    """
    headers = {"Location": location or f"/jobs/{job.id}"}
    if not fresh:
        headers["Idempotency-Replayed"] = "true"
    seconds = wait_of(prefer)
    with state.streams.slot(caller) if seconds is not None else nullcontext(False) as waits:
        if seconds is not None and waits:
            headers["Preference-Applied"] = f"wait={seconds}"
            job = await wait_for_end(state, job.id, seconds)
        else:
            job = await current(state, job)
    ended = waits and job.status in TERMINAL
    if ended and job.result is not None:
        headers["X-Model-Version"] = job.result["version"]
    content = job_out(job).model_dump_json()
    status = 200 if ended else 202
    return Response(content, status, headers=headers, media_type="application/json")


def wait_of(prefer: str) -> int | None:
    """Seconds of ``wait=N`` in a Prefer header, at most 300; None without one (RFC 7240)."""
    for preference in re.split(r"[,;]", prefer):
        name, _, value = preference.partition("=")
        seconds = value.strip().strip('"')
        if name.strip().lower() == "wait" and seconds.isascii() and seconds.isdecimal():
            return min(int(seconds[:9]), LONGEST_WAIT_S)
    return None


def _claim(state: ApiState, key: str, body: dict[str, Any], job_id: str) -> Claim:
    text = json.dumps(body, sort_keys=True)
    try:
        return state.store.journal.claim_key(key, hashlib.sha256(text.encode()).hexdigest(), job_id)
    except KeyReused as error:
        message = f"this key came with another body before (job {error.job_id})"
        problem = parameter_error("Idempotency-Key", "idempotency_key_reused", message)
        raise invalid([problem], "idempotency_key_reused") from None
