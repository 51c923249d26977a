"""The queue: Redis Streams for jobs, their events, and requests that are answered immediately.

``JobQueue``, ``Lease``, ``RequestQueue`` and ``Heartbeat`` are the worker's side (threads),
``AsyncQueue`` is the api's (asyncio).  Both use the same keys and the same Lua scripts.
"""

from service.contracts.wire import JobEvent, Keys, LiveJob, WorkerBeat
from service.queue.asking import STOPPING
from service.queue.asynchronous import AsyncQueue
from service.queue.connection import Client, connect, connect_async, end_patience, server_process
from service.queue.errors import (
    AnswerBrokenOff,
    JobGone,
    LeaseHeld,
    LeaseLost,
    QueueDown,
    QueueError,
    QueueFailure,
    RequestLost,
    RequestTimeout,
    WorkerGone,
)
from service.queue.jobs import JobQueue, QueuedJob
from service.queue.lease import Lease
from service.queue.members import Members
from service.queue.requests import Heartbeat, RequestQueue, is_worker_alive

__all__ = [
    "STOPPING",
    "AnswerBrokenOff",
    "AsyncQueue",
    "Client",
    "Heartbeat",
    "JobEvent",
    "JobGone",
    "JobQueue",
    "Keys",
    "Lease",
    "LeaseHeld",
    "LeaseLost",
    "LiveJob",
    "Members",
    "QueueDown",
    "QueueError",
    "QueueFailure",
    "QueuedJob",
    "RequestLost",
    "RequestQueue",
    "RequestTimeout",
    "WorkerBeat",
    "WorkerGone",
    "connect",
    "connect_async",
    "end_patience",
    "is_worker_alive",
    "server_process",
]
