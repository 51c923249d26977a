"""The api under test: its settings and a server on a free port of the loopback interface."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
import uvicorn.server

from service.serve import ApiServer, server_config
from service.settings import Settings


def make_settings(store: Path, redis_url: str) -> Settings:
    return Settings(
        store=store,
        redis_url=redis_url,
        auth="off",
        max_facts=50,
        max_body_bytes=100_000,
        generate_timeout_s=5.0,
        lease_ms=5000,
        lease_renew_s=1.0,
    )


class _Asyncio:
    """asyncio as uvicorn sees it here: a server that ends sleeps a tenth of a second otherwise."""

    def __getattr__(self, name: str) -> object:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.005))


uvicorn.server.asyncio = _Asyncio()  # type: ignore[attr-defined]


class Prompt(ApiServer):
    """Ends when it is asked to; uvicorn's own looks every tenth of a second."""

    async def main_loop(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        await self.on_tick(0)
        await self._end.wait()

    def ask_to_end(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)


@contextmanager
def running(settings: Settings, port: int = 0, patience_s: int = 1) -> Iterator[str]:
    """Serve an app on a port of the loopback interface; gives its address.

    ``patience_s``: how long it may answer what it was asked, once it is told to end.
    """
    config = server_config(
        settings, log_level="warning", timeout_graceful_shutdown=patience_s, lifespan="on"
    )
    server = Prompt(config)
    with socket.socket(proto=socket.IPPROTO_TCP) as sock:  # else asyncio leaves Nagle's delays on
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the api did not start"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.ask_to_end()
            thread.join(10)
