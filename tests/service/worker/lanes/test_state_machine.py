"""Edits, rollbacks, reverts, names, cancels, crashes, a lost queue, in any order, against a model.

The model is small: a version is the list of its batches, and jobs run in the order in which they
were accepted, each on the head it finds.  Store, queue and edit lane are real.  ``FAULTS=all`` runs
more of it, and once with the mathematics of a real model.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis
from support.service.edit_runner import HPARAMS, MODEL, give_moments, runner_and_views
from support.service.played_worker.computing import During, Killed
from support.service.played_worker.jobs import FACT, edit_job, revert_job
from support.service.played_worker.worker import PlayedWorker

from jeep_core.models.loading import load
from service.api.reconcile import Reconciler
from service.contracts.jobs import TERMINAL, Job, JobStatus
from service.contracts.schemas import FactRecord
from service.queue import AsyncQueue, Keys, connect_async
from service.store import HeadMoved, NameTaken, Store
from service.store.files import TEMPORARY
from service.worker.lanes.control import JobControl

EVERYTHING = os.environ.get("FAULTS") == "all"
STEPS = 220
NAMES = ("a", "b", "c", "d", "e")
DEATHS = (
    ("queue", "begin"),
    ("store.tensors", "put"),
    ("store.drafts", "save"),
    ("store.versions", "write"),
    ("store.head", "move"),
    ("store.names", "give"),
    ("store.journal", "save"),
    ("queue", "finish"),
)
pick = st.integers(0, 2**16)
Death = tuple[tuple[str, str], bool, int]
deaths = st.lists(st.tuples(st.sampled_from(DEATHS), st.booleans(), st.integers(1, 4)), max_size=2)


@dataclass
class Expected:
    """What must be true."""

    head: str = "v0"
    batches: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"v0": ()})
    staged: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    waiting: list[Job] = field(default_factory=list)
    ended: dict[str, tuple[JobStatus, str | None]] = field(default_factory=dict)


class Machine(RuleBasedStateMachine):
    """One store, one queue, one worker after the other."""

    client: Redis
    url: str

    def make_worker(self, during: During | None = None) -> PlayedWorker:
        return PlayedWorker(self.client, self.store.root, during)

    @initialize()
    def begin(self) -> None:
        self.client.flushall()
        self.folder = Path(mkdtemp(prefix="machine-"))
        self.store = Store.open(self.folder / "store")
        self.prepare()
        self.expected, self.facts = Expected(), 0

    def prepare(self) -> None:
        self.store.create_base("weights-0")

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.work([], "nothing", 0)
            self.is_as_expected()
            shutil.rmtree(self.folder)

    # ------------------------------------------------------------ what clients do

    def facts_of_next(self) -> list[FactRecord]:
        self.facts += 1
        return [FACT.model_copy(update={"subject": f"Town {self.facts % 7}"})]

    @rule(activate=st.booleans(), name=st.sampled_from([None, None, *NAMES]))
    def edit(self, activate: bool, name: str | None) -> None:
        payload: dict[str, Any] = {"facts": self.facts_of_next(), "snapshot_name": name}
        self.accept(edit_job(self.store, **payload, **self.method(), activate=activate))

    def method(self) -> dict[str, Any]:
        return {}

    @precondition(lambda self: self.expected.batches)
    @rule(which=pick)
    def revert(self, which: int) -> None:
        edits = sorted({edit for line in self.expected.batches.values() for edit in line})
        if edits:
            self.accept(revert_job(self.store, edits[which % len(edits)]))

    def accept(self, job: Job) -> None:
        self.as_the_api(lambda api, queue: api.submit(job))
        self.expected.waiting.append(job)

    @precondition(lambda self: self.expected.waiting)
    @rule(which=pick)
    def cancel(self, which: int) -> None:
        job = self.expected.waiting.pop(which % len(self.expected.waiting))
        self.store.journal.request_cancel(job.id)
        self.as_the_api(lambda api, queue: api.cancel(job))
        self.expected.ended[job.id] = (JobStatus.CANCELLED, None)

    @rule(which=pick)
    def roll_back(self, which: int) -> None:
        self.move_to(self.some_version(which))

    @precondition(lambda self: self.expected.staged)
    @rule(which=pick)
    def activate(self, which: int) -> None:
        version = sorted(self.expected.staged)[which % len(self.expected.staged)]
        parent = self.expected.staged[version]
        if parent == self.expected.head:
            self.move(version, parent)
            self.expected.head = version
        else:
            with pytest.raises(HeadMoved):
                self.move(version, parent)

    @rule(which=pick, name=st.sampled_from(NAMES))
    def name(self, which: int, name: str) -> None:
        version, names = self.some_version(which), self.expected.names
        if names.get(name, version) == version:
            self.store.names.give(name, version)
            names[name] = version
        else:
            with pytest.raises(NameTaken):
                self.store.names.give(name, version)

    # ------------------------------------------------------------ what happens to the service

    @rule()
    def lose_the_queue(self) -> None:
        self.client.flushall()

    @rule()
    def reconcile(self) -> None:
        self.as_the_api(lambda api, queue: api._catch_up())

    @rule()
    def open_again(self) -> None:
        self.store = Store.open(self.store.root)

    @rule(
        dying=deaths,
        meanwhile=st.sampled_from(["nothing", "nothing", "cancel", "rollback"]),
        which=pick,
    )
    def work(self, dying: list[Death], meanwhile: str, which: int) -> None:
        """Work until nothing waits: by workers that die, or while something happens."""
        if dying:
            meanwhile = "nothing"
        for death in dying:
            worker = self.make_worker()
            die_at(worker, *death)
            with suppress(Killed):
                worker.work()
        events: dict[str, str] = {}

        def during(job: Job, control: JobControl) -> None:
            if not events and meanwhile != "nothing":
                events[job.id] = meanwhile
                if meanwhile == "cancel":
                    self.store.journal.request_cancel(job.id)
                else:
                    self.move(self.some_version(which), self.store.head.read().version)

        self.make_worker(during).work()
        self.store = Store.open(self.store.root)
        for job in self.expected.waiting:
            self.expect_end(job, events.get(job.id), which)
        self.expected.waiting.clear()

    # ------------------------------------------------------------ the model

    def expect_end(self, job: Job, event: str | None, which: int) -> None:
        """Run a job in the model; what it made is known by its record."""
        model, recorded = self.expected, self.store.journal.read(job.id)
        before, old = model.head, model.batches[model.head]
        edit_id, name = job.payload["edit_id"], job.payload["snapshot_name"]
        is_edit = job.kind == "edit"
        if event == "rollback":
            model.head = self.some_version(which)
        reason = None
        if name in model.names:
            reason = "name_taken"
        elif not is_edit and edit_id not in old:
            reason = "not_applied"
        elif event == "rollback" and model.head != before and job.payload.get("activate", True):
            reason = "version_conflict"
        if event == "cancel":
            model.ended[job.id] = (JobStatus.CANCELLED, None)
        elif reason is not None:
            model.ended[job.id] = (JobStatus.FAILED, reason)
        else:
            model.ended[job.id] = (JobStatus.SUCCEEDED, None)
            assert recorded.result is not None, recorded.error
            version = recorded.result["version"]
            kept = tuple(edit for edit in old if edit != edit_id)
            self.learn(version, (*kept, edit_id) if is_edit else kept)
            if job.payload.get("activate", True):
                model.head = version
            else:
                model.staged[version] = before
            if name is not None:
                model.names[name] = version

    def learn(self, version: str, batches: tuple[str, ...]) -> None:
        """A version holds these batches; the last ones on the way to it, these but the last."""
        for made in reversed(self.store.versions.lineage(version)):
            assert self.expected.batches.setdefault(made.id, batches) == batches
            batches = batches[:-1]

    def some_version(self, which: int) -> str:
        return sorted(self.expected.batches)[which % len(self.expected.batches)]

    def move_to(self, version: str) -> None:
        self.move(version, self.expected.head)
        self.expected.head = version

    def move(self, to: str, expected: str) -> None:
        fence = self.store.head.read().fence
        self.store.head.move(to, expected=expected, job_id=None, fence=fence, who="me", why="")

    def as_the_api(self, call: Callable[[Reconciler, AsyncQueue], Any]) -> None:
        async def connected() -> None:
            queue = AsyncQueue(connect_async(self.url), Keys(self.store.id))
            reconciler = Reconciler(self.store, queue)
            reconciler.catching_up = False
            await call(reconciler, queue)
            await queue.close()

        asyncio.run(connected())

    # ------------------------------------------------------------ what must always be true

    @invariant()
    def is_as_expected(self) -> None:
        model, store = self.expected, Store.open(self.store.root)
        assert store.head.read().version == model.head
        assert store.names.all() == model.names
        for version, batches in model.batches.items():
            line = store.versions.lineage(version)
            assert line[0].id == "v0"
            assert tuple(str(made.edit_id) for made in line[1:]) == batches
        for job_id, (status, code) in model.ended.items():
            job = store.journal.read(job_id)
            assert (job.status, job.error and job.error.code) == (status, code)
        assert {job.id for job in store.journal.all()} == {
            *model.ended,
            *(j.id for j in model.waiting),
        }

    @invariant()
    def history_is_whole(self) -> None:
        store = Store.open(self.store.root)
        moves = store.head.reflog()
        assert [move.previous for move in moves[1:]] == [move.to for move in moves[:-1]]
        assert moves[-1] == store.head.read().move
        jobs = [move.job_id for move in moves if move.job_id]
        assert len(jobs) == len(set(jobs))

    @precondition(lambda self: not self.expected.waiting)
    @invariant()
    def nothing_is_left_over(self) -> None:
        root = self.store.root
        assert not [*root.rglob(f".*{TEMPORARY}"), *(root / "staging").iterdir()]
        assert not [*(root / "work").iterdir(), *(root / "jobs" / "open").iterdir()]
        assert not list((root / "jobs").glob("*.cancel"))
        assert all(job.status in TERMINAL for job in self.store.journal.all())


def die_at(worker: PlayedWorker, place: tuple[str, str], after: bool, count: int) -> None:
    """Have a worker die before or after it calls this for the ``count``-th time."""
    part, name = place
    original, calls = getattr(attrgetter(part)(worker), name), []

    def dying(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == count and not after:
            raise Killed
        found = original(*args, **more)
        if len(calls) == count:
            raise Killed
        return found

    setattr(attrgetter(part)(worker), name, dying)


def run(machine: type[Machine], client: Redis, url: str, examples: int, steps: int) -> None:
    def make() -> Machine:
        made = machine()
        made.client, made.url = client, url
        return made

    run_state_machine_as_test(
        make,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=not EVERYTHING,
            suppress_health_check=list(HealthCheck),
            database=None,
            print_blob=True,
        ),
    )


@pytest.mark.timeout(3600)
def test_the_store_agrees_with_its_model_after_any_sequence(client: Redis, valkey_url: str) -> None:
    run(Machine, client, valkey_url, 20 if EVERYTHING else 1, STEPS)


class WithAModel(Machine):
    """The mathematics, too: the same batches in the same order have the same bytes."""

    base: Any = None

    def prepare(self) -> None:
        cls = type(self)
        cls.base = cls.base or load(str(MODEL), device="cpu", dtype="float32")
        give_moments(cls.base, self.store, self.folder)
        self.weights: dict[tuple[str, ...], str] = {}

    def method(self) -> dict[str, Any]:
        return {"editor": "memit", "hparams": HPARAMS}

    def make_worker(self, during: During | None = None) -> PlayedWorker:
        base = self.base
        return PlayedWorker(
            self.client,
            self.store.root,
            during,
            weights=str(base.weights_sha256),
            computing=lambda store: runner_and_views(base, store),
        )

    @invariant()
    def same_batches_same_bytes(self) -> None:
        for version, batches in self.expected.batches.items():
            weights = self.store.versions.read(version).weights_sha256
            assert self.weights.setdefault(batches, weights) == weights


@pytest.mark.timeout(3600)
def test_the_store_agrees_with_its_model_after_edits_of_a_real_model(
    client: Redis, valkey_url: str
) -> None:
    run(WithAModel, client, valkey_url, 1, STEPS if EVERYTHING else 15)
