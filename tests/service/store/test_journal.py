"""The journal: no job lost, none twice, whatever dies."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.service.builders import MakeJob, ended

from service.contracts.jobs import JobStatus, new_id
from service.store import CorruptFile, JobExists, KeyReused, Store, UnknownJob
from service.store.maintenance.sweep import sweep


class TestJournal:
    def test_a_journaled_job_survives_a_restart(self, store: Store, make_job: MakeJob) -> None:
        job = make_job(payload={"facts": ["Zürich"]})
        store.journal.add(job)
        assert Store.open(store.root).journal.read(job.id) == job

    def test_a_job_is_journaled_once(self, store: Store, make_job: MakeJob) -> None:
        job = make_job()
        store.journal.add(job)
        with pytest.raises(JobExists):
            store.journal.add(job.model_copy(update={"payload": {"other": 1}}))
        assert store.journal.read(job.id).payload == {}

    def test_marks_that_a_crash_left_on_ended_jobs_go(
        self, store: Store, make_job: MakeJob
    ) -> None:
        first, second = make_job(), make_job()
        for job in (first, second):
            store.journal.add(job)
            store.journal.save(ended(job))
        for mark in (f"open/{first.id}.open", f"{first.id}.cancel", f"{second.id}.cancel"):
            (store.root / "jobs" / mark).touch()
        assert store.journal.unfinished() == []
        assert store.journal.count_open() == 0
        sweep(store)
        files = [p for p in (store.root / "jobs").rglob("*") if p.is_file()]
        assert sorted(p.suffix for p in files) == [".json", ".json"]

    def test_open_jobs_of_an_earlier_release_are_open(
        self, store: Store, make_job: MakeJob
    ) -> None:
        """It marked them among the records; a start that was killed half-way is made up for."""
        jobs = [make_job(id=f"job_{n}") for n in range(3)]
        for job in jobs:
            store.journal.add(job)
        store.journal.save(ended(jobs[1]))
        folder = store.root / "jobs"
        for mark in (folder / "open").iterdir():
            mark.rename(folder / mark.name)
        (folder / "open").rename(folder / ".open")
        again = Store.open(store.root)
        assert [job.id for job in again.journal.unfinished()] == ["job_0", "job_2"]
        assert not list(folder.glob("*.open"))

    def test_jobs_that_an_api_of_an_earlier_release_accepts_meanwhile_are_not_lost(
        self, store: Store, make_job: MakeJob
    ) -> None:
        folder, jobs = store.root / "jobs", [make_job(id=f"job_{n}") for n in range(2)]
        for job in jobs:
            store.journal.add(job)
            (folder / "open" / f"{job.id}.open").rename(folder / f"{job.id}.open")
        store.journal.save(jobs[0].model_copy(update={"status": JobStatus.SUCCEEDED}))
        (folder / "job_2.open").touch()  # its record is about to be written
        store.journal.request_cancel("job_1")
        (store.root / "work" / "job_1").mkdir()
        assert sweep(Store.open(store.root)) == 0
        assert [job.id for job in store.journal.unfinished()] == ["job_1"]
        assert store.journal.cancel_requested("job_1")
        assert [path.name for path in folder.glob("*.open")] == ["job_2.open"]
        assert (store.root / "work" / "job_1").exists()

    def test_records_are_not_listed_where_open_jobs_are_counted(
        self, store: Store, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.journal.add(make_job())
        listed = list[str]()
        scandir = os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
        monkeypatch.delattr(Path, "glob")
        assert store.journal.count_open() == 1
        assert len(store.journal.unfinished()) == 1
        assert {Path(one).name for one in listed} == {"open"}

    def test_ids_rise_when_the_clock_is_set_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = [new_id("job"), new_id("job")]
        hour_ago = time.time_ns() - 3600 * 10**9
        monkeypatch.setattr(time, "time_ns", lambda: hour_ago)
        found = [*before, new_id("job"), new_id("job")]
        assert found == sorted(set(found))

    @pytest.mark.parametrize("job_id", ["job_1", "../model", "", "a/b", "job_1\n"])
    def test_an_unknown_job_is_unknown(self, store: Store, job_id: str) -> None:
        for ask in (store.journal.read, store.journal.request_cancel):
            with pytest.raises(UnknownJob):
                ask(job_id)

    def test_a_job_that_was_never_journaled_cannot_be_saved(
        self, store: Store, make_job: MakeJob
    ) -> None:
        with pytest.raises(UnknownJob):
            store.journal.save(make_job())

    def test_jobs_are_listed_newest_first(self, store: Store, make_job: MakeJob) -> None:
        jobs = [make_job(id=f"job_{n}") for n in range(4)]
        for job in jobs:
            store.journal.add(job)
        store.journal.save(jobs[2].model_copy(update={"status": JobStatus.FAILED}))
        assert [j.id for j in store.journal.all()] == ["job_3", "job_2", "job_1", "job_0"]
        assert [j.id for j in store.journal.all({JobStatus.FAILED})] == ["job_2"]
        assert [j.id for j in store.journal.all(after="job_2")] == ["job_1", "job_0"]

    def test_unfinished_jobs_come_oldest_first(self, store: Store, make_job: MakeJob) -> None:
        jobs = [make_job(id=f"job_{n}") for n in range(4)]
        for job in jobs:
            store.journal.add(job)
        store.journal.save(jobs[0].model_copy(update={"status": JobStatus.RUNNING}))
        store.journal.save(jobs[1].model_copy(update={"status": JobStatus.SUCCEEDED}))
        unfinished = [j.id for j in Store.open(store.root).journal.unfinished()]
        assert unfinished == ["job_0", "job_2", "job_3"]

    def test_a_crash_while_a_job_ends_does_not_reopen_it(
        self, store: Store, make_job: MakeJob
    ) -> None:
        job = make_job()
        store.journal.add(job)
        store.journal.save(job.model_copy(update={"status": JobStatus.SUCCEEDED}))
        (store.root / "jobs" / "open" / f"{job.id}.open").touch()
        assert store.journal.unfinished() == []

    @pytest.mark.parametrize("how", ["cut off", "a folder"])
    def test_an_unreadable_record_hides_no_other_job(
        self, store: Store, make_job: MakeJob, how: str
    ) -> None:
        for n in range(3):
            store.journal.add(make_job(id=f"job_{n}"))
        path = store.root / "jobs" / "job_1.json"
        if how == "cut off":
            path.write_bytes(path.read_bytes()[:20])
        else:
            path.unlink()
            path.mkdir()
        assert [job.id for job in store.journal.all()] == ["job_2", "job_0"]
        assert [job.id for job in store.journal.unfinished()] == ["job_0", "job_2"]
        with pytest.raises(CorruptFile, match="job_1"):
            store.journal.read("job_1")

    def test_a_wish_to_cancel_survives_a_restart(self, store: Store, make_job: MakeJob) -> None:
        job = make_job()
        store.journal.add(job)
        assert not store.journal.cancel_requested(job.id)
        store.journal.request_cancel(job.id)
        assert Store.open(store.root).journal.cancel_requested(job.id)

    def test_a_finished_job_cannot_be_cancelled(self, store: Store, make_job: MakeJob) -> None:
        job = make_job()
        store.journal.add(job)
        store.journal.request_cancel(job.id)
        store.journal.save(job.model_copy(update={"status": JobStatus.SUCCEEDED}))
        store.journal.request_cancel(job.id)
        assert not store.journal.cancel_requested(job.id)


class TestIdempotency:
    def test_the_first_caller_gets_the_key(self, store: Store) -> None:
        claim = store.journal.claim_key("k", "body", "job_1")
        assert (claim.job_id, claim.fresh) == ("job_1", True)

    def test_the_same_request_again_finds_the_first_job(
        self, store: Store, make_job: MakeJob
    ) -> None:
        store.journal.claim_key("k", "body", "job_1")
        store.journal.add(make_job(id="job_1"))
        claim = Store.open(store.root).journal.claim_key("k", "body", "job_2")
        assert (claim.job_id, claim.fresh) == ("job_1", False)

    def test_a_caller_that_died_before_journaling_leaves_the_job_to_the_next(
        self, store: Store
    ) -> None:
        store.journal.claim_key("k", "body", "job_1")
        claim = store.journal.claim_key("k", "body", "job_2")
        assert (claim.job_id, claim.fresh) == ("job_1", True)

    def test_the_key_with_another_body_is_refused(self, store: Store) -> None:
        store.journal.claim_key("k", "body", "job_1")
        with pytest.raises(KeyReused) as refused:
            store.journal.claim_key("k", "other body", "job_2")
        assert refused.value.job_id == "job_1"

    def test_of_many_callers_at_once_all_get_the_same_job(self, store: Store) -> None:
        with ThreadPoolExecutor(8) as pool:
            claims = list(
                pool.map(lambda n: store.journal.claim_key("k", "body", f"job_{n}"), range(16))
            )
        assert len({claim.job_id for claim in claims}) == 1

    def test_a_refused_request_gives_its_key_back(self, store: Store) -> None:
        store.journal.claim_key("k", "body", "job_1")
        store.journal.release_key("k", "job_1")
        assert store.journal.claim_key("k", "other body", "job_2").job_id == "job_2"

    def test_a_journaled_job_keeps_its_key(self, store: Store, make_job: MakeJob) -> None:
        store.journal.claim_key("k", "body", "job_1")
        store.journal.add(make_job(id="job_1"))
        store.journal.release_key("k", "job_1")
        assert store.journal.claim_key("k", "body", "job_2").job_id == "job_1"

    def test_an_old_key_is_forgotten(self, store: Store, make_job: MakeJob) -> None:
        store.journal.claim_key("k", "body", "job_1")
        store.journal.add(make_job(id="job_1"))
        time.sleep(0.02)
        later = Store.open(store.root, idempotency_hours=0.01 / 3600)
        claim = later.journal.claim_key("k", "other body", "job_2")
        assert (claim.job_id, claim.fresh) == ("job_2", True)

    def test_an_unreadable_key_hinders_no_sweep(self, store: Store) -> None:
        store.journal.claim_key("k", "body", "job_1")
        [path] = (store.root / "idempotency").glob("*.json")
        path.write_text("{")
        assert sweep(store) == 0
