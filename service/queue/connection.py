"""Clients that survive a restart of the server: capped exponential backoff."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

Client = Redis
"""The type that `connect` returns, for annotations outside this package."""

BLOCK_LIMIT_MS = 10_000
"""Longest blocking read: well below the socket's timeout."""

_FAILURES = (RedisConnectionError, RedisTimeoutError)  # a loading server is the first kind
_OPTIONS: dict[str, Any] = {
    "decode_responses": True,
    "protocol": 2,
    "socket_timeout": 30.0,
    "socket_connect_timeout": 5.0,
    "max_connections": 1024,
}


def connect(url: str, *, retries: int = 30) -> Redis:
    """A thread-safe client; 30 retries bridge about 55 s, then calls fail."""
    return Redis.from_url(url, retry=Retry(_backoff(), retries, _FAILURES), **_OPTIONS)


def end_patience(client: Redis) -> None:
    """Make calls of this client fail immediately from now on, without further retries."""
    client.set_retry(Retry(NoBackoff(), 0))


def connect_async(url: str, *, retries: int = 4) -> AsyncRedis:
    """An asyncio client; 4 retries bridge about 1.5 s: a person is waiting."""
    return AsyncRedis.from_url(url, retry=AsyncRetry(_backoff(), retries, _FAILURES), **_OPTIONS)


def block_ms(wanted: float) -> int | None:
    """A BLOCK argument: within the limit, None for "do not wait" (0 would mean forever)."""
    return min(int(wanted), BLOCK_LIMIT_MS) if wanted >= 1 else None


def _backoff() -> ExponentialBackoff:
    return ExponentialBackoff(cap=2.0, base=0.05)


def server_process(socket: Path) -> int | None:
    """The process id of the server that answers on a Unix socket.

    0 if it answers but wants a password, None if none answers.
    """
    client = Redis(unix_socket_path=str(socket), socket_timeout=2, retry=Retry(NoBackoff(), 0))
    try:
        info: Any = client.info("server")
        return int(info["process_id"])
    except AuthenticationError:
        return 0
    except RedisError:
        return None
    finally:
        client.close()
