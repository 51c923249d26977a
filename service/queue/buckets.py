"""Token buckets in Redis: rate limits per key, shared by all api processes."""

from __future__ import annotations

import asyncio
import logging
import time

from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.contracts.wire import Keys

TAKE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local rate, size = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local passed = math.max(0, now - (tonumber(kept[2]) or now))
local tokens = math.min(size, (tonumber(kept[1]) or size) + passed * rate)
local wait = 0
if tokens >= 1 then tokens = tokens - 1 else wait = (1 - tokens) / rate end
redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', now)
redis.call('PEXPIRE', KEYS[1], math.ceil(size / rate * 1000) + 1000)
return tostring(wait)
"""
"""Seconds until there is a token; 0: one was taken.  A clock set back adds nothing."""

_PATIENCE_S = 0.5
_REST_S = 5.0

log = logging.getLogger(__name__)


class TokenBuckets:
    """Buckets of ``size`` tokens that fill at ``per_second``, one per name.

    While Redis is unreachable every request passes: those that need the queue fail by themselves,
    and the others must be answered.  After a failure Redis is not used for 5 s, to avoid waiting.
    """

    def __init__(self, client: Redis, keys: Keys, per_second: float, size: int) -> None:
        self._take = client.register_script(TAKE)
        self._keys, self._per_second, self._size = keys, per_second, size
        self._resting_until = 0.0

    async def wait_for(self, name: str) -> float:
        """Take a token; return 0.0, or the seconds until one is available."""
        if time.monotonic() < self._resting_until:
            return 0.0
        try:
            async with asyncio.timeout(_PATIENCE_S):
                arguments = [self._per_second, self._size]
                return float(await self._take(keys=[self._keys.bucket(name)], args=arguments))
        except (RedisError, TimeoutError) as error:
            log.warning("requests are not counted for %g s: %s", _REST_S, error)
            self._resting_until = time.monotonic() + _REST_S
            return 0.0
