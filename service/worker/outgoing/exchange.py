"""One HTTP request to a server of others: no redirects, an answer of bounded size and time."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from jeep_core.errors import Coded
from service.ops.addresses import Place

MOST_BYTES = 4 << 20
"""Of an answer; lists of models and log-probabilities are far smaller."""


class TooLong(Coded, Exception):
    """The answer of a server is longer than it may be."""

    code = "bad_answer"


def request_to(place: Place, method: str, path: str, body: Any, key: str | None) -> httpx.Request:
    """A request to a place that was checked, which is called by its name; ``key``: a bearer token.

    ``body`` is sent as JSON, unless it is None.
    """
    headers = {"Host": place.host, "Accept": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return httpx.Request(
        method, place.at(path), headers=headers, json=body,
        extensions={"sni_hostname": place.name},
    )  # fmt: skip


async def exchange(
    request: httpx.Request, timeout_s: float, most_bytes: int = MOST_BYTES, connects: int = 0
) -> httpx.Response:
    """Send a request; the answer with its whole body.

    The timeouts of httpx are those of single reads; a server that sends a byte now and then would
    never exceed one, so the whole exchange has an end as well.  ``connects``: how often httpx tries
    to connect again.

    Raises:
        TimeoutError, httpx.HTTPError: there was no whole answer within ``timeout_s`` seconds.
        TooLong: it has more than ``most_bytes`` bytes.
    """
    timeout = httpx.Timeout(timeout_s, connect=min(5.0, timeout_s))
    async with (
        asyncio.timeout(timeout_s),
        httpx.AsyncClient(
            timeout=timeout, trust_env=False, follow_redirects=False,
            transport=httpx.AsyncHTTPTransport(retries=connects, trust_env=False),
        ) as client,
    ):  # fmt: skip
        response = await client.send(request, stream=True)
        try:
            data = bytearray()
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > most_bytes:
                    raise TooLong(f"the server's answer is longer than {most_bytes} bytes")
        finally:
            await response.aclose()
    kept = {n: v for n, v in response.headers.items() if n.lower() == "retry-after"}
    return httpx.Response(response.status_code, headers=kept, content=bytes(data))
