"""The queue's own exceptions.  Those of the redis library do not leave this package.

QueueError
├ LeaseHeld       another worker has the write lane
├ LeaseLost       … has taken it over
├ JobGone         the job to begin has been cancelled or was lost with Redis
├ WorkerGone      no worker is alive, or those that had the request have died
├ RequestLost     two workers have died that had the request
├ AnswerBrokenOff the worker has died that had sent a part of the answer
├ RequestTimeout  the deadline of a request has passed
└ QueueDown       the server cannot be reached, does not answer or takes nothing now

QueueFailure      whatever the server or its client raised: QueueDown, or an error of this program
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from redis import exceptions as redis

from jeep_core.errors import Coded

T = TypeVar("T")


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


class RequestLost(QueueError):
    """Two workers had the request and are gone; it may be the reason, so there is no third."""

    code = "request_lost"


class AnswerBrokenOff(QueueError):
    """A part of the answer was sent, and the rest cannot come: another worker would begin again."""

    code = "answer_broken_off"


class RequestTimeout(QueueError):
    """Nobody answered before the request's deadline."""

    code = "worker_timeout"


class QueueFailure(Coded, Exception):
    """The queue's server, or the connection to it, failed.

    A job or request that it happened to is not at fault.  Anything but :class:`QueueDown` is a
    command that the server refused: an error of this program, or of the server's configuration.
    """

    code = "internal_error"


class QueueDown(QueueFailure, QueueError):
    """The server cannot be reached, does not answer, or takes nothing now: try again later."""

    code = "no_queue"


_DOWN = (
    redis.ConnectionError,  # a server that is loading is one, too
    redis.TimeoutError,
    TimeoutError,
    redis.OutOfMemoryError,
    redis.ReadOnlyError,
)


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors of the redis library, and timeouts, into :class:`QueueFailure`."""
    try:
        yield
    except (redis.RedisError, TimeoutError) as error:
        kind = QueueDown if isinstance(error, _DOWN) else QueueFailure
        raise kind(str(error) or "the queue does not answer") from error


def translating(cls: type[T]) -> type[T]:
    """Class decorator: public methods raise :class:`QueueFailure` instead of redis' errors.

    Functions, coroutines and asynchronous generators are wrapped; what the class calls within
    itself by private names still raises redis' own errors.
    """
    for name, member in list(vars(cls).items()):
        if not name.startswith("_") and inspect.isfunction(member):
            setattr(cls, name, _translating(member))
    return cls


def _translating(method: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(method):

        @functools.wraps(method)
        async def items(*args: Any, **more: Any) -> AsyncGenerator[Any, None]:
            with translated():
                async with aclosing(method(*args, **more)) as found:
                    async for item in found:
                        yield item

        return items
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def result(*args: Any, **more: Any) -> Any:
            with translated():
                return await method(*args, **more)

        return result

    @functools.wraps(method)
    def called(*args: Any, **more: Any) -> Any:
        with translated():
            return method(*args, **more)

    return called
