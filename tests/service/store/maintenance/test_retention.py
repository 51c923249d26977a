"""Tensors of old versions are dropped and rebuilt bit for bit; nothing needed is dropped."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from redis import Redis
from support.library.tiny import random_model
from support.service.builders import MakeJob, ended
from support.service.edit_runner import (
    MODEL,
    an_edit,
    edit_on,
    give_moments,
    runner_and_views,
)
from support.service.thin_versions import add_chain, add_edit

from jeep_core.models.delta import TIE_MARGIN, summed
from jeep_core.models.loading import LoadedModel, load, tensor_bytes
from service.contracts.jobs import Job, JobStatus
from service.contracts.schemas import WorkerRequest
from service.store import CorruptTensor, Store
from service.store.maintenance.retention import plan_retention
from service.store.maintenance.sweep import sweep, sweep_orphans
from service.store.maintenance.verify import verify
from service.worker.gate import Gate
from service.worker.versions import rebuild
from service.worker.versions.requests import VersionRequests
from service.worker.versions.retention import Keeper
from service.worker.versions.views import VersionViews


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return random_model("gptj")


@pytest.fixture
def chain(base: LoadedModel, store: Store) -> Store:
    """v0 to v5; head is v5."""
    add_chain(base, store, 5)
    return store


def dropped(store: Store) -> list[str]:
    return [m.id for m in reversed(store.versions.all()) if store.versions.missing(m)]


def assert_all_versions_answer(base: LoadedModel, store: Store) -> None:
    """A fresh process reads every version with the weights that its manifest names."""
    views = VersionViews(base, Store.open(store.root))
    for manifest in store.versions.all():
        assert views.get(manifest.id).weights_sha256() == manifest.weights_sha256


def ask(kind: Any, version: str) -> WorkerRequest:
    return WorkerRequest(id=f"ask_{kind}", kind=kind, deadline=0, versions=[version])


class TestBytes:
    @pytest.mark.parametrize(
        ("family", "dtype"),
        [("gptj", torch.float32), ("gpt2", torch.float32), ("llama", torch.bfloat16)],
    )
    def test_a_version_is_the_same_after_its_tensors_were_dropped(
        self, store: Store, family: str, dtype: torch.dtype
    ) -> None:
        base = random_model(family, dtype)
        add_chain(base, store, 5)
        before = {
            m.id: {n: tensor_bytes(t) for n, t in rebuild.load(base, store, m).items()}
            for m in store.versions.all()
        }
        done = Keeper(base, store, newest=2).collect()
        assert list(done.dropped) == ["v1", "v2", "v3"]
        assert dropped(store) == ["v1", "v2", "v3"]
        assert all(done.dropped.values())
        assert_all_versions_answer(base, store)
        for manifest in store.versions.all():
            loaded = rebuild.load(base, store, manifest)
            assert {n: tensor_bytes(t) for n, t in loaded.items()} == before[manifest.id]

    def test_edits_of_the_service_are_rebuilt(self, store: Store, tmp_path: Path) -> None:
        base = load(str(MODEL), device="cpu", dtype="float32")
        give_moments(base, store, tmp_path)
        runner, _ = runner_and_views(base, store)
        for number, subject in enumerate(("Lyon", "Nice", "Caen"), start=1):
            fact = {"subject": subject, "prompt": "{} lies in", "target_new": "Peru"}
            parent = store.head.read().version
            made, _ = edit_on(runner, an_edit(fact, number=number), parent)
            store.head.move(made.id, expected=parent, job_id=None, fence=1, who="t", why="edit")
        assert list(Keeper(base, store, newest=1).collect().dropped) == ["v1", "v2"]
        assert_all_versions_answer(base, store)

    def test_a_machine_that_adds_in_another_order_gives_the_same_bytes(
        self, base: LoadedModel, chain: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Keeper(base, chain, newest=1).collect()
        random, differs = torch.Generator().manual_seed(0), []

        def elsewhere(matrix: torch.Tensor, *args: Any) -> torch.Tensor:
            total = summed(matrix, *args)
            noise = torch.rand(total.shape, generator=random, dtype=torch.float64) - 0.5
            other = (total + noise * TIE_MARGIN * total.abs().max()).to(matrix.dtype).contiguous()
            differs.append(not torch.equal(other, total.to(matrix.dtype)))
            return other

        monkeypatch.setattr(rebuild, "materialise", elsewhere)
        assert_all_versions_answer(base, chain)
        assert any(differs)

    def test_a_version_whose_rebuild_does_not_match_keeps_its_tensors(
        self, base: LoadedModel, chain: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = next(a for a in chain.versions.read("v1").artifacts if a.name.startswith("u."))
        path = chain.tensors.path(first.sha256)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        done = Keeper(base, chain, newest=1).collect()
        assert done.dropped == {}
        assert "v1 keeps its tensors" in caplog.text
        path.write_bytes(whole)
        assert_all_versions_answer(base, chain)

    def test_a_version_that_cannot_be_rebuilt_keeps_what_it_shares_with_one_that_can(
        self, base: LoadedModel, chain: Store
    ) -> None:
        """v6 has the tensors of v1 and a line that does not lead to them."""
        shared = chain.versions.read("v1").model_copy(update={"id": "v6", "parent": "v5"})
        chain.versions.write(shared)
        chain.versions.write(
            chain.versions.read("v5").model_copy(update={"id": "v7", "parent": "v6"})
        )
        Keeper(base, chain, newest=1).collect()
        assert dropped(chain) == ["v2", "v3", "v4"]

    def test_a_damaged_factor_is_found_when_a_version_is_rebuilt(
        self, base: LoadedModel, chain: Store
    ) -> None:
        Keeper(base, chain, newest=1).collect()
        first = next(a for a in chain.versions.read("v1").artifacts if a.name.startswith("u."))
        path = chain.tensors.path(first.sha256)
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        with pytest.raises(CorruptTensor, match=r"tensor u\..* is damaged"):
            VersionViews(base, chain).get("v2")
        assert VersionViews(base, chain).get("v5").replaced

    def test_a_thin_version_can_be_edited_on(self, base: LoadedModel, chain: Store) -> None:
        Keeper(base, chain, newest=1).collect()
        view = VersionViews(base, chain).editing(chain.versions.lineage("v2"))
        assert view.weights_sha256() == chain.versions.read("v2").weights_sha256


class TestWhatStays:
    def test_newest_named_staged_and_wanted_versions_and_head_keep_their_tensors(
        self, base: LoadedModel, chain: Store
    ) -> None:
        chain.names.give("good", "v1")
        chain.versions.want("v2")
        staged = add_edit(base, chain, commit=False, staged=True)
        add_edit(base, chain)
        chain.head.move("v3", expected="v7", job_id=None, fence=1, who="t", why="rollback")
        plan = plan_retention(chain, newest=1)
        assert plan.kept == {
            "v1": "named good",
            "v2": "asked for",
            "v3": "head",
            staged: "staged",
            "v7": "among the newest",
        }
        Keeper(base, chain, newest=1).collect()
        assert dropped(chain) == ["v4", "v5"]

    def test_versions_that_a_job_names_keep_their_tensors(
        self, base: LoadedModel, chain: Store, make_job: MakeJob
    ) -> None:
        chain.names.give("good", "v2")
        chain.journal.add(make_job(payload={"targets": [{"version": "v1"}, {"version": "good"}]}))
        chain.journal.add(make_job(base_version="v3"))
        Keeper(base, chain, newest=1).collect()
        assert dropped(chain) == ["v4"]

    def test_a_draft_keeps_its_tensors(
        self, base: LoadedModel, chain: Store, make_job: MakeJob
    ) -> None:
        job = make_job()
        chain.journal.add(job)
        shared = chain.versions.read("v1").tensors
        draft = chain.versions.read("v1").model_copy(update={"id": "v9", "job_id": job.id})
        chain.drafts.save(draft)
        Keeper(base, chain, newest=1).collect()
        assert all(chain.tensors.has(ref) for ref in shared)
        assert dropped(chain) == ["v2", "v3", "v4"]

    def test_versions_in_memory_keep_their_tensors(self, base: LoadedModel, chain: Store) -> None:
        views = VersionViews(base, chain)
        views.get("v2")
        Keeper(base, chain, newest=1, busy=views.in_use).collect()
        assert dropped(chain) == ["v1", "v3", "v4"]

    def test_a_named_thin_version_gets_its_tensors_back(
        self, base: LoadedModel, chain: Store
    ) -> None:
        keeper = Keeper(base, chain, newest=1)
        keeper.collect()
        chain.names.give("good", "v2")
        assert keeper.collect().restored == ["v2"]
        assert dropped(chain) == ["v1", "v3", "v4"]

    def test_what_was_asked_for_is_dropped_an_hour_later(
        self, base: LoadedModel, chain: Store
    ) -> None:
        chain.versions.want("v2")
        keeper = Keeper(base, chain, newest=1)
        keeper.collect()
        assert "v2" not in dropped(chain)
        os.utime(chain.root / "locks" / "wanted-v2", (0, 0))
        assert list(keeper.collect().dropped) == ["v2"]
        assert not (chain.root / "locks" / "wanted-v2").exists()

    def test_another_round_changes_nothing(self, base: LoadedModel, chain: Store) -> None:
        keeper = Keeper(base, chain, newest=2)
        keeper.collect()
        files = sorted(chain.root.glob("**/*"))
        done = keeper.collect()
        assert (done.dropped, done.restored, done.removed_files) == ({}, [], 0)
        assert sorted(chain.root.glob("**/*")) == files
        assert verify(chain).findings == []

    def test_a_start_removes_nothing_that_a_thin_version_needs(
        self, base: LoadedModel, chain: Store
    ) -> None:
        Keeper(base, chain, newest=1).collect()
        assert sweep(Store.open(chain.root)) == 0
        assert_all_versions_answer(base, chain)


class WaitedFor:
    """A lock that signals when another thread waits for it."""

    def __init__(self, lock: Any) -> None:
        self._lock, self.comes, self.release = lock, threading.Event(), lock.release

    def acquire(self, timeout: float) -> bool:
        self.comes.set()
        return bool(self._lock.acquire(timeout=timeout))


class TestOrphans:
    def test_what_ended_jobs_left_behind_is_removed(
        self, base: LoadedModel, chain: Store, make_job: MakeJob
    ) -> None:
        running, done, failed = (make_job() for _ in range(3))
        for job in (running, done, failed):
            chain.journal.add(job)
            (chain.drafts.work_folder(job.id) / "part").write_text("x")
            (chain.reports.folder(job.id) / "report").write_text("x")
        chain.reports.folder("job_gone")
        chain.journal.save(ended(done))
        chain.journal.save(ended(failed, JobStatus.FAILED))
        lost = chain.tensors.put("w", "F32", [1], b"lost")
        done_round = Keeper(base, chain, newest=9).collect()
        assert done_round.removed_files == 5
        assert not chain.tensors.has(lost)
        assert [p.name for p in (chain.root / "work").iterdir()] == [running.id]
        left = {p.name for p in (chain.root / "reports").iterdir()}
        assert left == {running.id, done.id}

    def test_a_job_that_begins_meanwhile_keeps_its_partial_results(
        self, chain: Store, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, job = chain.journal.unfinished, make_job()

        def and_one_begins() -> list[Job]:
            found = before()
            if job.id not in {one.id for one in found}:
                chain.journal.add(job)
                (chain.drafts.work_folder(job.id) / "part").write_text("x")
            return found

        monkeypatch.setattr(chain.journal, "unfinished", and_one_begins)
        assert sweep_orphans(chain) == 0
        assert (chain.drafts.work_folder(job.id) / "part").exists()

    def test_nothing_is_removed_while_a_version_is_written(
        self, base: LoadedModel, chain: Store
    ) -> None:
        """The new version's bytes are those of v1, whose tensors were about to be dropped."""
        keeper = Keeper(base, chain, newest=1)
        again = chain.versions.read("v1").model_copy(update={"id": "v6", "parent": "v5"})
        with ThreadPoolExecutor(1) as pool:
            with keeper.writing(Gate(1.0)):
                keeper._writes = waited_for = WaitedFor(keeper._writes)
                fresh = chain.tensors.put("w", "F32", [1], b"new!")
                round_ = pool.submit(keeper.collect)
                while not (waited_for.comes.wait(0.01) or round_.done()):
                    continue
                again = again.model_copy(update={"artifacts": [*again.artifacts, fresh]})
                chain.versions.write(again)
            assert "v2" in round_.result(60).dropped
        assert chain.tensors.has(fresh)
        assert not chain.versions.missing(again)


class TestRollback:
    """A rollback to v2 at every point of a round, and a round at every point of a rollback."""

    def requests(self, base: LoadedModel, store: Store) -> VersionRequests:
        lease: Any = SimpleNamespace(fence=1)
        return VersionRequests(store, lease, VersionViews(base, store))

    def assert_v2_is_head(self, base: LoadedModel, store: Store) -> None:
        assert store.head.read().version == "v2"
        assert not store.versions.missing(store.versions.read("v2"))
        assert verify(store).findings == []
        assert_all_versions_answer(base, store)

    @pytest.mark.parametrize("point", range(14))
    def test_a_rollback_during_a_round_is_served(
        self, client: Redis, base: LoadedModel, chain: Store, point: int
    ) -> None:
        requests, steps = self.requests(base, chain), list[int]()

        def step() -> None:
            steps.append(1)
            if len(steps) == point + 1:
                requests.roll_back(ask("rollback", "v2"))

        keeper = Keeper(base, chain, newest=1, give_way=step)
        keeper.collect()
        assert 9 <= len(steps) <= 12  # four versions of two tensors, and before each dropping
        if point >= len(steps):
            requests.roll_back(ask("rollback", "v2"))
        self.assert_v2_is_head(base, chain)
        keeper.collect()
        self.assert_v2_is_head(base, chain)

    @pytest.mark.parametrize(
        ("part", "name"),
        [
            ("store.versions", "want"),
            ("views", "get"),
            ("store.tensors", "put"),
            ("store.head", "move"),
        ],
    )
    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("thin", [False, True])
    def test_a_round_during_a_rollback_drops_nothing_needed(
        self,
        client: Redis,
        base: LoadedModel,
        chain: Store,
        monkeypatch: pytest.MonkeyPatch,
        part: str,
        name: str,
        when: str,
        thin: bool,
    ) -> None:
        keeper = Keeper(base, Store.open(chain.root), newest=1)
        if thin:
            keeper.collect()
        requests = self.requests(base, chain)
        owner: Any = attrgetter(f"_{part}")(requests)
        whole: Callable[..., Any] = getattr(owner, name)
        rounds = []

        def with_a_round(*args: Any, **more: Any) -> Any:
            if when == "before":
                rounds.append(keeper.collect())
            made = whole(*args, **more)
            if when == "after":
                rounds.append(keeper.collect())
            return made

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, with_a_round)
            requests.roll_back(ask("rollback", "v2"))
        assert rounds or (name == "put" and not thin)
        self.assert_v2_is_head(base, chain)

    def test_an_activated_version_keeps_its_tensors(
        self, client: Redis, base: LoadedModel, chain: Store
    ) -> None:
        staged = add_edit(base, chain, commit=False, staged=True)
        self.requests(base, chain).activate(ask("activate", staged))
        Keeper(base, chain, newest=1).collect()
        assert chain.head.read().version == staged
        assert not chain.versions.missing(chain.versions.read(staged))

    def test_a_rollback_works_on_a_full_disk(
        self, client: Redis, base: LoadedModel, chain: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Keeper(base, chain, newest=1).collect()
        requests = self.requests(base, chain)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(chain.tensors, "put", full)
            requests.roll_back(ask("rollback", "v2"))
        assert chain.head.read().version == "v2"
        assert_all_versions_answer(base, chain)
        assert Keeper(base, chain, newest=1).collect().restored == ["v2"]
