"""One HTTP request per call: retries, pages, event streams, refusals as exceptions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import httpx
from httpx_sse import EventSource, ServerSentEvent
from pydantic import BaseModel

from service.client.asynchronous.aside import aside, sleep
from service.client.errors import (
    ClientClosed,
    ClientError,
    DamagedDownload,
    Unreachable,
    refusal,
    translated,
)
from service.client.files import PART, OnFile, begin, is_whole, untold
from service.client.requests import address, authorization, with_body
from service.contracts.schemas import JobOut
from service.contracts.schemas.exports import ExportFile

M = TypeVar("M", bound=BaseModel)

_CHUNK = 2**20
READ_S = 60.0
"""Longest silence of the service in most calls."""
RETRIES = 4
"""Tries of a request that the service did not get or could not serve yet."""


class _Page(BaseModel):
    """A part of a list; ``next`` is the cursor of the part after it."""

    data: list[dict[str, Any]]
    has_more: bool
    next: str | None = None


class Transport:
    """Connections to one service, with the caller's API key."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        timeout: float | None = None,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Take the arguments, as the class describes them; nothing is sent yet."""
        self._timeout = timeout
        self._http = httpx.AsyncClient(
            base_url=address(base_url),
            timeout=self._within(READ_S),
            headers=authorization(api_key),
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _within(self, seconds: float) -> httpx.Timeout:
        """The limits of a call whose answer may take so long; the caller's own precedes."""
        return httpx.Timeout(seconds if self._timeout is None else self._timeout, connect=10.0)

    async def _model(self, model: type[M], method: str, url: str, **request: Any) -> M:
        response = await self._request(method, url, **request)
        with translated():
            return model.model_validate_json(response.content)

    async def _queued(self, url: str, body: Mapping[str, Any], key: str | None) -> JobOut:
        """Submit a job exactly once, with retries; a key is generated where none is given."""
        headers = {"Idempotency-Key": key or str(uuid4())}
        return await self._model(JobOut, "POST", url, json=body, headers=headers, again=True)

    async def _request(
        self, method: str, url: str, *, again: bool = False, **request: Any
    ) -> httpx.Response:
        """Send one request; repeat it after a lost connection where that is harmless."""
        self._check_open()
        sent, tries = with_body(request), RETRIES if again or method == "GET" else 1
        with translated():
            for attempt in range(tries):
                try:
                    response = await self._http.request(method, url, **sent)
                    break
                except httpx.TransportError:
                    if attempt == tries - 1:
                        raise
                    await sleep(0.2 * 2**attempt)
        await check(response)
        return response

    async def _pages(
        self, model: type[M], url: str, params: Mapping[str, str] | None = None
    ) -> AsyncIterator[M]:
        """Every entry of a list, whose pages are fetched one after the other."""
        cursor: dict[str, str] = {}
        while True:
            page = await self._model(_Page, "GET", url, params={**(params or {}), **cursor})
            with translated():
                entries = [model.model_validate(item) for item in page.data]
            for entry in entries:
                yield entry
            if not page.has_more or page.next is None:
                return
            cursor = {"after": page.next}

    async def _download(
        self,
        url: str,
        path: Path,
        params: Mapping[str, str] | None = None,
        read_s: float = READ_S,
    ) -> int:
        """Write an answer to ``path``; return its size in bytes.

        The file appears under its name only when it is complete.  ``read_s``: the longest silence.
        """
        limits = self._within(read_s)
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as file:
                async with self._answering("GET", url, params=params, timeout=limits) as response:
                    async for chunk in response.aiter_bytes():
                        await aside(file.write, chunk)
            size = part.stat().st_size
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return size

    async def _fetch(
        self, url: str, path: Path, file: ExportFile, on_file: OnFile = untold, head: bytes = b""
    ) -> None:
        """One file, from where an earlier try ended; a damaged one is fetched once more.

        It appears under its name when it has its hash.  ``head`` is put before what is fetched.
        """
        part = path.with_name(path.name + PART)
        for _ in range(2):
            await aside(begin, part, head)
            await self._fill(url, part, file, on_file, len(head))
            if await aside(is_whole, part, file, len(head)):
                part.replace(path)
                return
            part.unlink()
        raise DamagedDownload(f"{path} arrived damaged twice: the service's own files may be")

    async def _fill(
        self, url: str, part: Path, file: ExportFile, on_file: OnFile, before: int
    ) -> None:
        """Append to a part until it has the file's size; connections may break."""
        broken = 0
        while (done := part.stat().st_size - before) < file.bytes:
            why: ClientError = DamagedDownload(f"{part.name}: the service sends nothing of it")
            try:
                await self._append(url, part, file, done, on_file, before)
                if part.stat().st_size - before > done:
                    continue
            except Unreachable as error:
                why = error
            broken = 0 if part.stat().st_size - before > done else broken + 1
            if broken >= RETRIES:
                raise why
            await sleep(0.2 * 2**broken)

    async def _append(
        self, url: str, part: Path, file: ExportFile, done: int, on_file: OnFile, before: int
    ) -> None:
        etag = f'"{file.sha256}"'
        headers = {"Range": f"bytes={done}-", "If-Range": etag} if done else {}
        headers["Accept-Encoding"] = "identity"
        async with self._answering("GET", url, headers=headers) as response:
            with part.open("r+b") as out:
                done = done if response.status_code == httpx.codes.PARTIAL_CONTENT else 0
                out.seek(before + done)
                out.truncate()
                async for chunk in response.aiter_bytes(_CHUNK):
                    await aside(out.write, chunk)
                    done += len(chunk)
                    if done > file.bytes:  # of something else, however long: its hash tells
                        return
                    if done < file.bytes:  # its end is told when its hash has been compared
                        on_file(file, done)

    async def _json(self, url: str) -> Any:
        """An answer as the JSON that it is."""
        response = await self._request("GET", url)
        with translated():
            return response.json()

    @asynccontextmanager
    async def _answering(
        self, method: str, url: str, **request: Any
    ) -> AsyncIterator[httpx.Response]:
        """A successful answer whose body has not been read."""
        self._check_open()
        try:
            with translated():
                async with self._http.stream(method, url, **with_body(request)) as response:
                    await check(response)
                    yield response
        except Unreachable:
            self._check_open()  # it was closed meanwhile: that is why
            raise

    def _check_open(self) -> None:
        """Raise `ClientClosed` if there are no connections any more."""
        if self._http.is_closed:
            raise ClientClosed("this client has been closed: make another one")

    async def _events(
        self, method: str, url: str, **request: Any
    ) -> AsyncGenerator[ServerSentEvent, None]:
        """The events of a stream; a comment that keeps it alive is none."""
        request.setdefault("headers", {})["Accept"] = "text/event-stream"
        async with self._answering(method, url, **request) as response:
            async for event in EventSource(response).aiter_sse():
                if event.data:  # a comment after an event id looks like an event
                    yield event

    async def _reachable_before(self, deadline: float | None) -> bool:
        """Give a restarting service half a minute, at most until the deadline."""
        self._check_open()
        end = time.monotonic() + 30.0 if deadline is None else deadline
        while time.monotonic() < end:
            try:
                await self._http.get("/livez")
            except httpx.TransportError:
                await sleep(0.3)
            else:
                return True
        return False


async def check(response: httpx.Response) -> None:
    """Raise `ApiError` for an answer that is neither a success nor says that nothing is new."""
    if not response.is_success and response.status_code != httpx.codes.NOT_MODIFIED:
        raise refusal(response, await response.aread())
