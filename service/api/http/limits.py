"""Limits of one service: requests per key, open streams, jobs, texts."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from jeep_core.spec.facts import Fact
from jeep_core.text.counting import counted
from service.api.http.problems import OVER_LIMIT, ApiProblem, field_error, unavailable
from service.contracts.schemas import FactIn, GenerateRequest
from service.contracts.schemas.access import LOCAL, Caller
from service.contracts.schemas.base import MessageIn
from service.queue import STOPPING
from service.queue.buckets import TokenBuckets
from service.settings import Settings
from service.store import Store

PING_SECONDS = 5
"""Time between two comments on a stream without events, so that nobody takes it for dead."""
CLOSING_S = 5
"""How long an api that is told to stop waits for what it answers; Docker waits for 10 s."""
BUSY_S = 5
"""Seconds after which a place may be free again."""


class RateLimit:
    """Requests per key (`JEEP_RATE_PER_MINUTE`, at once `JEEP_RATE_BURST`)."""

    def __init__(self, buckets: TokenBuckets, settings: Settings) -> None:
        self._buckets, self._on = buckets, settings.rate_per_minute > 0
        self._allowed = f"{settings.rate_per_minute:g} requests a minute (JEEP_RATE_PER_MINUTE)"

    async def take(self, caller: Caller) -> None:
        """Count a request.

        Raises:
            ApiProblem: 429 with the seconds until the next one is taken.
        """
        if not self._on or caller is LOCAL:
            return
        wait = await self._buckets.wait_for(caller.id)
        if wait > 0:
            detail = f"this key ({caller.id}) may send {self._allowed}"
            raise busy("too_many_requests", detail, math.ceil(wait))


class Streams:
    """Answers that stay open: server-sent events, and edits that are waited for."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """The places in use."""
        return self._open.total()

    @contextmanager
    def slot(self, caller: Caller) -> Iterator[bool]:
        """Yield whether there was a free place; if so it is held for the block.

        One key leaves the others a quarter of the places.
        """
        share = self._limit if caller is LOCAL else max(1, self._limit * 3 // 4)
        free = self._open.total() < self._limit and self._open[caller.id] < share
        self._open[caller.id] += free
        try:
            yield free
        finally:
            self._open[caller.id] -= free
            if not self._open[caller.id]:
                del self._open[caller.id]

    def answer(self, caller: Caller, *args: Any, **options: Any) -> EventSourceResponse:
        """An event stream that keeps a place as long as it is open, or 429."""
        return _Stream(self, caller, *args, ping=PING_SECONDS, **options)

    def tokens(self, caller: Caller, *args: Any, **options: Any) -> EventSourceResponse:
        """As `answer`, of an answer that ends: an api that is told to stop waits for it a while."""
        return self.answer(caller, *args, shutdown_grace_period=CLOSING_S - 0.5, **options)


class Closing:
    """The end of an api that is told to stop: what still waits then gets a reason, and in time."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._waiting: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        """The api is told to stop; to be called on its event loop.  Again it changes nothing."""
        if self._at is not None:
            return
        self._at = asyncio.get_running_loop().time() + CLOSING_S - 1
        for limit in self._waiting:
            limit.reschedule(self._at)

    def at_once(self) -> None:
        """The api is told again: what still waits ends now."""
        self._at = asyncio.get_running_loop().time()
        for limit in self._waiting:
            if not limit.expired():
                limit.reschedule(self._at)

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[asyncio.Timeout]:
        """A second before the server would end it, the block is cancelled.

        Python 3.11 loses a cancellation in the moment in which something has been sent
        (``asyncio.wait_for``); the server ends such a block.

        Raises:
            TimeoutError: it was, and the limit says that it is ``expired``.
        """
        async with asyncio.timeout_at(self._at) as limit:
            self._waiting.add(limit)
            try:
                yield limit
            finally:
                self._waiting.discard(limit)

    @asynccontextmanager
    async def or_refused(self) -> AsyncIterator[None]:
        """As `limit`, for what is refused then.

        Raises:
            ApiProblem: 503 with the reason, `STOPPING`.
        """
        limit = None
        try:
            async with self.limit() as limit:
                yield
        except TimeoutError:
            if limit is None or not limit.expired():
                raise
            raise unavailable(
                STOPPING, "the api is told to stop, or to start again: ask again"
            ) from None


class _Stream(EventSourceResponse):
    def __init__(self, streams: Streams, caller: Caller, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._streams, self._caller = streams, caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.slot(self._caller) as free:
            if not free:
                raise busy(
                    "too_many_streams",
                    "too many event streams are open (JEEP_MAX_STREAMS): close some",
                    BUSY_S,
                )
            await super().__call__(scope, receive, send)


def busy(code: str, detail: str, retry_after: int) -> ApiProblem:
    """A 429 that says when to try again."""
    return ApiProblem(code, detail, headers={"Retry-After": str(max(1, retry_after))})


def check_queue(store: Store, settings: Settings) -> None:
    """Refuse one more job than may wait or run.

    Raises:
        ApiProblem: 429.
    """
    if store.journal.count_open() >= settings.max_queue:
        detail = f"{settings.max_queue} jobs wait already (JEEP_MAX_QUEUE): try again later"
        raise busy("queue_full", detail, BUSY_S)


def fact_errors(facts: Sequence[FactIn | Fact], settings: Settings) -> list[dict[str, str]]:
    """Errors for texts of facts that exceed the limits, and for too many prompts of one fact."""
    errors = []
    for i, fact in enumerate(facts):
        for name, value in vars(fact).items():
            values = _texts(value)
            if len(values) > settings.max_prompts:
                message = f"at most {counted(settings.max_prompts, 'prompt')} (JEEP_MAX_PROMPTS)"
                errors.append(field_error(f"/facts/{i}/{name}", OVER_LIMIT, message))
            if any(len(text) > settings.max_text_chars for text in values):
                errors.append(_too_long(f"/facts/{i}/{name}", settings))
    return errors


def _texts(value: Any) -> list[str]:
    """The texts of a field: its own, those of a list, or the contents of messages."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, MessageIn):
        return [value.content]
    if isinstance(value, list | tuple):
        return [text for one in value for text in _texts(one)]
    return []


def text_errors(body: GenerateRequest, settings: Settings) -> list[dict[str, str]]:
    """Errors for texts of a generation request that exceed the limits."""
    prompts = "prompt" if body.prompt is not None else "prompts"
    texts = {prompts: body.all_prompts, "candidates": body.candidates, "stop": body.stop}
    texts["messages"] = [message.content for message in body.messages or ()]
    errors = [
        _too_long(f"/{name}" if name == "prompt" else f"/{name}/{i}", settings)
        for name, values in texts.items()
        for i, text in enumerate(values)
        if len(text) > settings.max_text_chars
    ]
    if len(texts["messages"]) > settings.max_prompts:
        message = f"at most {settings.max_prompts} messages (JEEP_MAX_PROMPTS)"
        errors.append(field_error("/messages", OVER_LIMIT, message))
    return errors


def _too_long(pointer: str, settings: Settings) -> dict[str, str]:
    message = f"at most {settings.max_text_chars} characters (JEEP_MAX_TEXT_CHARS)"
    return field_error(pointer, OVER_LIMIT, message)
