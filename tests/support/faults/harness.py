"""A real service that can be broken: queue server, worker and api (`processes`).

``Service`` starts them on the loopback interface, does what a supervisor would do (starts again
what has died), submits work and remembers every job that was accepted, so that ``checks`` can say
afterwards whether one was lost or done twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx

from service.client import ApiError, Client
from service.contracts.jobs import TERMINAL, JobStatus
from service.contracts.schemas import JobOut
from service.store import Store
from support import ROOT, TINY_GPTJ
from support.faults import children
from support.faults.halts import Halts
from support.faults.processes import PATIENCE_S, Part, QueueServer, until
from support.library import gguf_files, played_llama

MODEL = TINY_GPTJ
CORPUS = ROOT / "tests/support/library/small_text.txt"
EVERYTHING = os.environ.get("FAULTS") == "all"
"""Whether all cases run, not only the few that ``make test`` has time for."""
LEASE_S = 2.0
SETTINGS: Mapping[str, object] = {
    "JEEP_MODEL": MODEL,
    "JEEP_CORPUS": CORPUS,
    "JEEP_MOMENT_SAMPLES": 600,
    "JEEP_AUTH": "off",
    "JEEP_DEVICE": "cpu",
    "JEEP_THREADS": 1,
    "JEEP_DECODE_THREADS": 1,
    "JEEP_LEASE_MS": int(LEASE_S * 1000),
    "JEEP_LEASE_RENEW_S": 0.4,
    "JEEP_MIN_FREE_MB": 0,
    "JEEP_PORT": 0,
}
HPARAMS: Mapping[str, Any] = {
    "low": {
        "layers": [1, 2],
        "clamp": 1.0,
        "weight_decay": 0.5,
        "moment_weight": 10.0,
        "spread": "linear",
    },
    "n_steps": 2,
    "learning_rate": 0.5,
    "kl_weight": 0.06,
    "n_prefixes": 1,
}
"""Of MEMIT on the tiny model: an edit takes about a tenth of a second."""
PLACES = ("Peru", "Japan", "Kenya", "Spain", "Chile", "Egypt", "Italy", "Ghana")
SUBJECTS = ("Lima", "Oslo", "Paris", "Rome", "Kyiv", "Bonn", "Quito", "Cairo", "Delhi", "Tunis")
SUITE, CASES = "towns", "cases.json"
READ_JOBS = ("evaluation", "trial", "probe", "check", "training", "export")
EXPORTS: Mapping[str, Mapping[str, Any]] = {
    "export": {"format": "merged"},
    "peft export": {"format": "peft", "max_rank": 4},
    "gguf export": {"format": "gguf", "type": "Q8_0"},
    "safetensors export": {"format": "safetensors"},
}
"""Kinds of `Service.read_job` that are exports, by what is asked for."""
T = TypeVar("T")


class Service:
    """The three processes on one store, and followers.  Use it as a context manager."""

    def __init__(self, root: Path, followers: int = 0, **settings: object) -> None:
        self.root, self.folder, self.programs = root / "store", root, root / "llama"
        self.programs.mkdir(exist_ok=True)
        self.server = QueueServer(root / "q")
        given = {**SETTINGS, "JEEP_STORE": self.root, "JEEP_REDIS_URL": self.server.url, **settings}
        given.setdefault("JEEP_LLAMA_CPP", self.programs)
        self.worker, self.api = Part("worker", root, given), Part("api", root, given)
        self.followers = [
            Part(f"follower{number + 1}", root, {**given, "JEEP_ROLE": "follower"})
            for number in range(followers)
        ]
        self.accepted: dict[str, JobOut] = {}
        self.cancelled: set[str] = set()
        self._facts = 0
        self.client: Client

    def __enter__(self) -> Service:
        for part in (self.server, self.worker, self.api):
            part.start()
        self.connect()
        self.wait_ready()
        self.wait_followers()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        """Learn the api's address, which it keeps from now on."""
        address = until(self._address, "the api's address")
        self.api.environment["JEEP_PORT"] = address.rpartition(":")[2]
        self.client = Client(address, timeout=30)

    def close(self) -> None:
        """Kill everything."""
        self.client.close()
        for part in (self.api, self.worker, *self.followers, self.server):
            part.kill()

    def _address(self) -> str | None:
        if not self.api.alive:
            self.api.start()
        log = self.api.log.read_text() if self.api.log.exists() else ""
        found = re.findall(r"api at (http://\S+)", log)
        return str(found[-1]) if found else None

    @property
    def store(self) -> Store:
        """The store, opened again."""
        return Store.open(self.root)

    @property
    def parts(self) -> tuple[QueueServer | Part, ...]:
        return self.server, self.worker, self.api, *self.followers

    def part(self, name: str) -> QueueServer | Part:
        return next(part for part in self.parts if part.name == name)

    # ------------------------------------------------------------ a supervisor's work

    def revive(self) -> None:
        """Start again the parts that do not run."""
        for part in self.parts:
            if not part.alive:
                part.start()

    def wait_ready(self, seconds: float = PATIENCE_S) -> None:
        """Keep everything running until this worker is ready."""

        def is_ready() -> bool:
            self.revive()
            with contextlib.suppress(httpx.TransportError):
                found = httpx.get(f"{self.url}/readyz", timeout=5)
                if found.is_success:
                    return bool(found.json()["worker"] == self.worker.pid)
                # all but head, which this worker has found damaged
                return {error["code"] for error in found.json()["errors"]} == {"corrupt_version"}
            return False

        try:
            until(is_ready, "the service is ready", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def wait_followers(self, head: str | None = None) -> None:
        """Keep everything running until all followers are ready, and have followed head there."""

        def ready() -> bool:
            self.revive()
            heard = {one.pid: one for one in self.persist(self.client.workers)}
            found = [heard.get(part.pid) for part in self.followers]
            return all(
                one is not None
                and one.state == "ready"
                and (one.head == head if head else one.head is not None)
                for one in found
            )

        try:
            until(ready, "the followers are ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api.environment['JEEP_PORT']}"

    def answers(self) -> bool:
        """Whether the api answers at all."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/livez", timeout=5).is_success
        return False

    def restart(self, *names: str) -> None:
        """Stop parts as an operator does, and start them again."""
        for name in names:
            self.part(name).stop()
            self.part(name).start()
        self.wait_ready()

    def logs(self) -> str:
        """The last lines of the logs of worker and api."""
        found = []
        for part in (self.worker, self.api, *self.followers):
            found.append(f"--- {part.name}\n{part.log.read_text()[-3000:]}")
        return "\n".join(found)

    def set_clock(self, seconds: float) -> None:
        """Set the clocks of worker and api, which continue from there."""
        for part in (self.worker, self.api):
            clock = Path(part.environment[children.HALTS]) / children.CLOCK
            aside = clock.with_suffix(".new")
            aside.write_text(str(seconds))
            aside.replace(clock)

    def forget_moments(self) -> None:
        """Make the next edit compute second moments again."""
        self.worker.stop()
        shutil.rmtree(self.root / "base" / "moments", ignore_errors=True)
        self.wait_ready()

    def halt(self, part: str, place: str) -> Halts:
        """Halt a part when it comes to a place; ``let_go`` of what this gives ends it."""
        process = self.part(part)
        assert isinstance(process, Part)
        process.halts.want(place)
        return process.halts

    # ------------------------------------------------------------ work

    def fact(self) -> dict[str, str]:
        """A fact that nobody has edited yet."""
        self._facts += 1
        place = PLACES[self._facts % len(PLACES)]
        return {"subject": f"Town {self._facts}", "prompt": "{} lies in", "target_new": place}

    def edit(self, facts: int = 1, **options: Any) -> JobOut:
        """Submit an edit until it is accepted, whatever happens to the service meanwhile."""
        body = [self.fact() for _ in range(facts)]
        given = {"editor": "memit", "hparams": dict(HPARAMS), **options}
        key = str(uuid4())
        return self._accept(lambda: self.client.edit(body, idempotency_key=key, **given))

    def wait_halted(self, halts: Halts, place: str) -> None:
        """Wait until a part has halted, as a supervisor: a worker that lost its lease on a busy
        machine ends, and the next one halts there.
        """

        def halted() -> bool:
            self.revive()
            return halts.reached()

        try:
            until(halted, f"the worker reaches {place!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def edit_halted(self, place: str, **options: Any) -> JobOut:
        """An edit at which the worker has halted."""
        halts = self.halt("worker", place)
        job = self.edit(**options)
        until(halts.reached, f"the worker reaches {place!r}")
        return job

    def revert(self, edit_id: str, **options: Any) -> JobOut:
        """Submit a revert, likewise."""
        key = str(uuid4())
        return self._accept(lambda: self.client.revert(edit_id, idempotency_key=key, **options))

    def add_cases(self) -> None:
        """A suite, and the same cases as a file to train on."""
        cases = [
            {
                "requested_rewrite": {
                    "prompt": "{} is a city in the country of",
                    "subject": subject,
                    "target_new": {"str": "Norway"},
                    "target_true": {"str": "Peru"},
                },
                "paraphrase_prompts": [f"{subject} lies in"],
                "neighborhood_prompts": ["Lyon lies in"],
            }
            for subject in SUBJECTS
        ]
        path = self.root / "training" / CASES
        path.write_text(json.dumps(cases))
        if SUITE not in [suite.name for suite in self.client.suites()]:
            self.client.add_suite(SUITE, path)

    def play_llama_cpp(self) -> None:
        """Programs that stand for llama.cpp's; what they make is of another tiny model."""
        own = self.folder / "own.gguf"
        gguf_files.write(own, "llama", gguf_files.random_model("llama"))
        played_llama.converter(self.programs, own)
        played_llama.quantizer(self.programs)
        played_llama.server(self.programs, {})

    def running_programs(self) -> list[str]:
        """The command lines of processes that run one of those programs."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found += [line] if f"{self.programs}/" in line else []
        return found

    def read_job(self, kind: str) -> JobOut:
        """Submit a job that writes no version: one of `READ_JOBS` or `EXPORTS`."""
        key, client = str(uuid4()), self.client
        submit: dict[str, Callable[[], JobOut]] = {
            "evaluation": lambda: client.evaluate(
                SUITE, ["base", "head"], fluency_texts=2, idempotency_key=key
            ),
            "trial": lambda: client.evaluate(
                SUITE,
                editor="memit",
                hparams=dict(HPARAMS),
                n_edits=[0, 2, 4],
                fluency_texts=0,
                idempotency_key=key,
            ),
            "export": lambda: client.submit_export("head", **EXPORTS[kind], idempotency_key=key),
            "check": lambda: client.check("head", idempotency_key=key),
            "probe": lambda: client.probe(SUITE, version="base", idempotency_key=key),
            "training": lambda: client.train_hypernetwork(
                "mend",
                hparams={"layers": [2, 3], "rank": 4, "n_blocks": 1},
                steps=6,
                facts=3,
                save_every=2,
                data=CASES,
                idempotency_key=key,
            ),
        }
        return self._accept(submit["export" if kind in EXPORTS else kind])

    def _accept(self, submit: Callable[[], JobOut]) -> JobOut:
        job = self.persist(submit)
        self.accepted[job.id] = job
        return job

    def persist(self, call: Callable[[], T], seconds: float = PATIENCE_S) -> T:
        """Repeat a call while the service cannot answer it: 503, 504 or no connection."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return call()
            except (httpx.TransportError, ApiError) as error:
                status = error.problem.status if isinstance(error, ApiError) else 503
                if status not in (503, 504) or time.monotonic() > deadline:
                    raise
                self.revive()
                time.sleep(0.05)

    def rollback(self, ref: str) -> str:
        """Move head; the version it left."""
        self.wait_ready()
        return self.persist(lambda: self.client.rollback(ref)).previous

    def cancel(self, job_id: str) -> None:
        """Cancel a job that may have ended."""
        with contextlib.suppress(ApiError):
            self.persist(lambda: self.client.cancel(job_id))
        self.cancelled.add(job_id)

    def wait(self, job_id: str, seconds: float = PATIENCE_S) -> JobOut:
        """Wait for the end of a job, as a supervisor: parts that die are started again."""

        def ended() -> JobOut | None:
            self.revive()
            job = self.persist(lambda: self.client.job(job_id))
            return job if job.status in TERMINAL else None

        try:
            return until(ended, f"{job_id} ends", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def edited(self, **options: Any) -> JobOut:
        """An edit that is done."""
        done = self.wait(self.edit(**options).id)
        assert done.status is JobStatus.SUCCEEDED, done.error
        return done
