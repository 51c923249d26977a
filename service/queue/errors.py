"""The queue's own exceptions (connection failures stay ``redis.ConnectionError``).

QueueError
├ LeaseHeld       another worker has the write lane
├ LeaseLost       … has taken it over
├ JobGone         the job to begin has been cancelled or was lost with Redis
├ WorkerGone      no worker is alive, or the one handling the request has died
└ RequestTimeout  the deadline of a request has passed
"""

from __future__ import annotations

from jeep_core.errors import Coded


class QueueError(Coded, Exception):
    """Base of the queue's own errors."""

    code = "no_queue"


class LeaseHeld(QueueError):
    """Another worker holds the lease and kept it while we waited."""

    code = "lease_held"


class LeaseLost(QueueError):
    """The fence is stale: all results computed under it must be discarded."""

    code = "stale_fence"


class JobGone(QueueError):
    """The job cannot begin: it was cancelled meanwhile, or is unknown to this Redis."""

    code = "job_gone"


class WorkerGone(QueueError):
    """No worker answers."""

    code = "no_worker"


class RequestTimeout(QueueError):
    """Nobody answered before the request's deadline."""

    code = "worker_timeout"
