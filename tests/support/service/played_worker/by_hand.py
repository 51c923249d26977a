"""Workers that are played by hand, for those who ask them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import ClassVar

from redis import Redis

from service.contracts.jobs import new_id, now
from service.contracts.schemas import WorkerReply, WorkerRequest
from service.contracts.schemas.worker import RequestKind
from service.queue import AsyncQueue, Heartbeat, RequestQueue, WorkerBeat
from support.service.builders import KEYS

TOKEN, PROGRESS = WorkerReply(event="token"), WorkerReply(event="progress")


def result(text: str) -> WorkerReply:
    return WorkerReply(event="result", data={"text": text})


def asked_for(kind: RequestKind = "generate", pinned: str | None = None) -> WorkerRequest:
    named = [] if pinned is None else [pinned]
    return WorkerRequest(
        id=new_id("ask"), kind=kind, deadline=time.time() + 30, versions=["v0"], pinned=named
    )


def error_of(code: str) -> WorkerReply:
    return WorkerReply(event="error", data={"code": code, "message": ""})


class Played:
    """A worker whose heart beats until ``die``, and which does what a test says."""

    living: ClassVar[list[Played]] = []

    def __init__(self, client: Redis, name: str, **described: object) -> None:
        self.client, self.name = client, name
        known = {"instance": name, "pid": 1, "model": "m", "started_at": now(), "head": "v0"}
        self.beat = WorkerBeat.model_validate({**known, "role": "follower", **described})
        self.heart = Heartbeat(client, KEYS, lambda: self.beat)
        self.heart.start()
        self.living.append(self)
        self.queue = RequestQueue(client, KEYS, name, writer=self.beat.role == "writer")

    def says(self, **described: object) -> None:
        """Send a heartbeat that says something else."""
        self.beat = self.beat.model_copy(update=described)
        self.heart.beat()

    async def takes(self) -> WorkerRequest:
        """The next request that comes to it."""
        async with asyncio.timeout(20):
            while True:
                for one in self.queue.take(0, 1):
                    return one
                await asyncio.sleep(0.02)

    async def fails(self, *, after: Sequence[WorkerReply] = ()) -> WorkerReply:
        """Its error as the answer to the next request, ``after`` other replies."""
        taken, error = await self.takes(), error_of("out_of_memory")
        self.queue.reply_all([(taken.id, one) for one in (*after, error)])
        return error

    def die(self) -> None:
        self.living.remove(self)
        self.heart.stop()


async def answer(api: AsyncQueue, request: WorkerRequest) -> list[WorkerReply]:
    return [reply async for reply in api.ask(request)]
