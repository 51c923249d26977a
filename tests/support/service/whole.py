"""A whole service in this process: an api over HTTP and a real worker with a small model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from service.settings import Settings
from service.worker.process import Worker
from support.service.serving import running

START_S = 120


@contextmanager
def working(settings: Settings) -> Iterator[Worker]:
    """A worker on a thread of its own, until the block ends."""
    worker = Worker(settings)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop.set()
        thread.join(30)


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Api and worker; gives the address once both are ready."""
    with working(settings), running(settings) as url:
        until_ready(url)
        yield url


def until_ready(url: str) -> None:
    """Wait until a worker has published its model and is alive."""
    deadline = time.monotonic() + START_S
    while httpx.get(f"{url}/readyz").status_code != 200:
        assert time.monotonic() < deadline, "the worker is not ready"
        time.sleep(0.05)
