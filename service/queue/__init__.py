"""The queue: Redis Streams for jobs, their events, and requests that are answered immediately.

``JobQueue``, ``Lease``, ``RequestQueue`` and ``Heartbeat`` are the worker's side (threads),
``AsyncQueue`` is the api's (asyncio).  Both use the same keys and the same Lua scripts.
"""

from service.contracts.wire import JobEvent, Keys, LiveJob, WorkerBeat
from service.queue.asynchronous import AsyncQueue
from service.queue.connection import connect, connect_async, end_patience
from service.queue.errors import (
    JobGone,
    LeaseHeld,
    LeaseLost,
    QueueError,
    RequestTimeout,
    WorkerGone,
)
from service.queue.jobs import JobQueue, QueuedJob
from service.queue.lease import Lease
from service.queue.requests import Heartbeat, RequestQueue

__all__ = [
    "AsyncQueue",
    "Heartbeat",
    "JobEvent",
    "JobGone",
    "JobQueue",
    "Keys",
    "Lease",
    "LeaseHeld",
    "LeaseLost",
    "LiveJob",
    "QueueError",
    "QueuedJob",
    "RequestQueue",
    "RequestTimeout",
    "WorkerBeat",
    "WorkerGone",
    "connect",
    "connect_async",
    "end_patience",
]
