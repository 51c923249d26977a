"""A separate service for a benchmark, and clients with little overhead."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from service.client import Client

START_SECONDS = 300
PROMPT = "The city of {} lies in"
PLACES = ("Lyon", "Osaka", "Lagos", "Quito", "Turin", "Oslo", "Perth", "Hanoi")


@contextmanager
def service(
    model: str = "atlas-gptj", *options: str, folder: str | None = None
) -> Iterator[tuple[Client, str]]:
    """``jeep serve`` on a free port with a temporary store: a client and the address.

    ``folder``: where the store is to be, as ``store``.
    """
    with ExitStack() as stack:
        if folder is None:
            made = tempfile.TemporaryDirectory(prefix="jeep-bench-")
            folder = stack.enter_context(made)
        log = Path(folder) / "serve.log"
        command = [sys.executable, "-m", "service.cli", "serve", "--model", model, "--auth", "off"]
        command += ["--port", "0", "--store", str(Path(folder) / "store"), *options]
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            url = _url(process, log)
            client = Client(url)
            client.wait_ready(START_SECONDS)
            yield client, url
            client.close()
        finally:
            process.terminate()
            process.wait(60)


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        text = log.read_text()
        if "listening at " in text:
            return text.partition("listening at ")[2].split()[0]
        time.sleep(0.1)
    raise RuntimeError(log.read_text())


def cpu_seconds() -> float:
    """Processor time of all processes that this one has started, in seconds."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def body(i: int, tokens: int = 16) -> dict[str, Any]:
    """A generation that is sampled so hot that no end of text comes before its last token."""
    prompt = PROMPT.format(PLACES[i % len(PLACES)])
    return {"prompt": prompt, "max_new_tokens": tokens, "temperature": 5.0, "seed": i}


class Asker:
    """One kept connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """``POST /generate``; the answer."""
        self._connection.request(
            "POST", "/generate", json.dumps(request), {"Content-Type": "application/json"}
        )
        response = self._connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        if response.status != 200:
            raise RuntimeError(str(answer))
        return answer


def tokens_of(answer: dict[str, Any]) -> int:
    """Generated tokens in an answer."""
    return sum(len(result["tokens"]) for result in answer["results"])


def tokens_per_second(url: str, clients: int, requests: Sequence[dict[str, Any]]) -> float:
    """Throughput of ``clients`` at once, each with its connection and its share of requests."""
    counts: list[int] = []

    def work(mine: Sequence[dict[str, Any]]) -> None:
        asker = Asker(url)
        counts.append(sum(tokens_of(asker.ask(request)) for request in mine))

    threads = [threading.Thread(target=work, args=(requests[i::clients],)) for i in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)
