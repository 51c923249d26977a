"""Requests that the worker answers immediately, and its refusals as problems."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request

from service.api.counters import GENERATION_SECONDS
from service.api.http.problems import ApiProblem, ClientGone, from_worker, unavailable
from service.api.state import ApiState, queue_or_503
from service.contracts.jobs import JobError, new_id
from service.contracts.schemas import WorkerReply, WorkerRequest
from service.contracts.schemas.worker import GENERATIONS, RequestKind
from service.ops import logs, tracing
from service.queue import (
    AnswerBrokenOff,
    RequestLost,
    RequestTimeout,
    WorkerGone,
)


def worker_request(
    state: ApiState,
    kind: RequestKind,
    versions: list[str],
    body: dict[str, Any],
    pinned: Sequence[str] = (),
) -> WorkerRequest:
    """A request with the deadline of ``JEEP_GENERATE_TIMEOUT_S``.

    ``pinned``: the versions that were named; it goes to a worker that has them in memory.
    """
    deadline = time.time() + state.settings.generate_timeout_s
    return WorkerRequest(
        id=new_id("ask"),
        request_id=logs.request_id(),
        traceparent=tracing.traceparent(),
        kind=kind,
        deadline=deadline,
        versions=versions,
        pinned=list(pinned),
        body=body,
    )


async def replies(state: ApiState, request: WorkerRequest) -> AsyncGenerator[WorkerReply, None]:
    """The worker's tokens and, last, its result.

    Raises:
        ApiProblem: 503 if the worker is gone, and so is the one that was asked instead, or tokens
            had come from it, or if the api has to end first; 504 after the deadline; or the
            worker's own error.
    """
    began = time.monotonic()
    try:
        async with queue_or_503():
            asked = state.queue.ask(request)
            async with aclosing(_while_open(state, asked)) as answers:
                async for reply in answers:
                    if reply.event == "error":
                        raise from_worker(JobError.model_validate(reply.data))
                    if reply.event == "result" and request.kind in GENERATIONS:
                        GENERATION_SECONDS.observe(time.monotonic() - began)
                    yield reply
    except (WorkerGone, RequestLost, AnswerBrokenOff) as error:
        raise unavailable(error.code, str(error)) from None
    except RequestTimeout as error:
        seconds = state.settings.generate_timeout_s
        detail = (
            f"no answer came in time; each worker that is asked has {seconds:g} s "
            "(JEEP_GENERATE_TIMEOUT_S): ask for less at once, or try again"
        )
        raise ApiProblem(error.code, detail) from None


async def _while_open(
    state: ApiState, asked: AsyncGenerator[WorkerReply, None]
) -> AsyncGenerator[WorkerReply, None]:
    """The replies, as long as the api has not to end before the next one."""
    async with aclosing(asked):
        while True:
            async with state.closing.or_refused():
                reply = await anext(asked, None)
            if reply is None:
                return
            yield reply


async def result(state: ApiState, client: Request, request: WorkerRequest) -> dict[str, Any]:
    """Return the worker's result; the worker is notified if the client leaves first.

    Raises:
        ApiProblem: as `replies`.
        ClientGone: the client has closed its connection.
    """
    work = asyncio.create_task(_last(state, request))
    gone = asyncio.create_task(_disconnected(client))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGone
        return work.result()
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _last(state: ApiState, request: WorkerRequest) -> dict[str, Any]:
    async with aclosing(replies(state, request)) as answers:
        async for reply in answers:
            if reply.event == "result":
                return reply.data
    raise unavailable("no_worker", "the worker has not answered")


async def _disconnected(client: Request) -> None:
    # the server wakes it: with hundreds of clients that wait, asking now and then costs more than
    # their answers
    while (await client.receive())["type"] != "http.disconnect":
        pass
