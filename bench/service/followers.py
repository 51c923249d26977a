"""Throughput with followers: ``python -m bench.service.followers``, on an idle machine.

Tokens a second of a service with one follower and with two, one thread each, in turn in one run;
the writer answers nothing meanwhile.  What the machine can bring is measured beside it: one
process decodes as many rows as there are clients, then two that know nothing of each other half of
them each, at the same time.

A follower decodes 64 rows at a time.  Give more than 128 clients to fill two of them.  Answers have
half to one and a half times the tokens that are asked for, so that rows end one by one, and what is
counted is what comes while all places are full: from the first answers, as many as there are
clients, to the moment at which the last request is sent.  So there must be at least three requests
for each client.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import torch

from bench.processor import parts, spent, told
from bench.report import Row, table
from bench.serving import START_SECONDS, Asker, body, service, tokens_of, tokens_per_second
from bench.workload import at_once, median
from jeep_core.decoding.batch import Batch
from jeep_core.decoding.generation import Sampling
from jeep_core.decoding.rows import Row as Decoded
from jeep_core.models.loading import load
from jeep_core.models.views import ModelView
from service.client import Client

ONE_THREAD = ("--threads", "1", "--decode-threads", "1")


def compare(model: str, repeats: int, clients: int, requests: int, tokens: int) -> Iterator[Row]:
    """One model: two followers against one, and the bound of the machine."""
    lengths = Random(0)
    asked = [body(i, lengths.randint(tokens // 2, tokens + tokens // 2)) for i in range(requests)]
    found: dict[str, list[float]] = {"one": [], "two": []}
    seconds: dict[str, dict[str, float]] = {"one": {}, "two": {}}
    bounds: list[float] = []
    alone_rates: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="jeep-bench-") as folder,
        service(model, *ONE_THREAD, folder=folder) as (client, url),
        followers(client, folder, model, 2) as processes,
    ):
        tokens_per_second(url, clients, asked[:clients])  # everything has been used once
        doing = parts({one.pid for one in processes})
        for _ in range(repeats):
            with paused(client, processes[1:]), spent(doing, seconds["one"]):
                found["one"].append(full_rate(url, clients, asked))
            with spent(doing, seconds["two"]):
                found["two"].append(full_rate(url, clients, asked))
    for _ in range(repeats):
        alone = together(model, 1, clients, tokens)
        bounds.append(alone / together(model, 2, clients // 2, tokens))
        alone_rates.append(clients * tokens / alone)
    rate = median(alone_rates)
    ratios = [two / one for one, two in zip(found["one"], found["two"], strict=True)]
    load_ = f"load {os.getloadavg()[0]:.1f}"
    count = repeats * sum(one["max_new_tokens"] for one in asked)
    costs = "; ".join(f"{name}: {told(some, count)}" for name, some in seconds.items())
    yield Row(
        f"{model}, {clients} clients, two followers against one",
        median(found["two"]), median(found["one"]), "tokens/s",
        median(ratios), min(ratios), max(ratios), f"{load_}; {costs}",
    )  # fmt: skip
    yield Row(
        f"{model}, {clients} rows, two processes of their own against one",
        rate * median(bounds), rate, "tokens/s",
        median(bounds), min(bounds), max(bounds), load_,
    )  # fmt: skip


def full_rate(url: str, clients: int, requests: Sequence[dict[str, Any]]) -> float:
    """Tokens a second while every one of ``clients`` waits for an answer."""
    ahead, answers = iter(requests), list[tuple[float, int]]()
    lock, last_sent = threading.Lock(), 0.0

    def work() -> None:
        nonlocal last_sent
        asker = Asker(url)
        while True:
            with lock:
                request = next(ahead, None)
                if request is None:
                    return
                last_sent = time.perf_counter()
            tokens = tokens_of(asker.ask(request))
            answers.append((time.perf_counter(), tokens))

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    began = sorted(answers)[clients - 1][0]
    whole = sum(tokens for moment, tokens in answers if began < moment <= last_sent)
    return whole / (last_sent - began)


@contextmanager
def followers(
    client: Client, folder: str, model: str, count: int
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Followers of a service, until all are ready."""
    store = Path(folder) / "store"
    queue = f"unix://{store / 'valkey' / 'valkey.sock'}"
    command = [sys.executable, "-m", "service.cli", "worker", "--role", "follower", *ONE_THREAD]
    command += ["--store", str(store), "--model", model, "--redis-url", queue]
    log = Path(folder) / "followers.log"
    with log.open("w") as output:
        started = [
            subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) for _ in range(count)
        ]
    try:
        wait_for(client, started, log)
        yield started
    finally:
        for one in started:
            one.send_signal(signal.SIGCONT)
            one.terminate()
        for one in started:
            one.wait(60)


def wait_for(
    client: Client, wanted: Sequence[subprocess.Popen[bytes]], log: Path | None = None
) -> None:
    """Wait until these followers, and no others, take requests."""
    deadline = time.monotonic() + START_SECONDS
    while {one.pid for one in client.workers() if one.takes} != {one.pid for one in wanted}:
        if time.monotonic() > deadline or any(one.poll() is not None for one in wanted):
            raise RuntimeError(log.read_text() if log else "a follower is not ready")
        time.sleep(0.1)


@contextmanager
def paused(client: Client, some: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Followers that stand still for the block; the others have noticed."""
    heard = {one.pid for one in client.workers() if one.role == "follower"}
    left = heard - {one.pid for one in some}
    for one in some:
        one.send_signal(signal.SIGSTOP)
    while {one.pid for one in client.workers() if one.role == "follower"} != left:
        time.sleep(0.1)
    yield
    for one in some:
        one.send_signal(signal.SIGCONT)
    while {one.pid for one in client.workers() if one.takes} != heard:
        time.sleep(0.1)


def together(model: str, count: int, rows: int, tokens: int) -> float:
    """Seconds in which ``count`` processes, each with a model of its own, decode the same rows."""
    return at_once(_decode, [(model, rows, tokens)] * count)


def _decode(model: str, rows: int, tokens: int, gate: Any) -> None:
    torch.set_num_threads(1)
    base = load(model, "cpu")
    view = ModelView(base)

    def work(length: int) -> None:
        batch = Batch(view, rows)
        given = [body(i, length) for i in range(rows)]
        batch.add(
            [
                Decoded(base, one["prompt"], Sampling(length, temperature=5.0, seed=one["seed"]))
                for one in given
            ]
        )
        while len(batch):
            batch.step()

    work(2)
    gate.wait()
    work(tokens)
    gate.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=192)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--models", nargs="+", default=["atlas-gptj"])
    args = parser.parse_args()
    if args.clients < 2 or args.clients % 2 or args.requests < 3 * args.clients:
        parser.error("give an even number of --clients, and three --requests for each at least")
    print(table([]), flush=True)
    for model in args.models:
        for row in compare(model, args.repeats, args.clients, args.requests, args.tokens):
            print(table([row]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
