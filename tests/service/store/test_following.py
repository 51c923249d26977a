"""A store that is followed: read as it is, changed in nothing; and jobs that are claimed."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.service.builders import MakeJob, add_version, ended, move

from service.contracts.jobs import JobKind, JobStatus
from service.store import ClaimLost, NotAStore, Store, WrongModel
from service.store.index.database import NoIndex


def tree(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if not path.name.endswith(("-shm", "-wal"))}


class TestFollow:
    def test_a_folder_that_is_no_store_stays_as_it_is(self, tmp_path: Path) -> None:
        with pytest.raises(NotAStore, match="is no store"):
            Store.open(tmp_path, following=True)
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_made(self, based: Store) -> None:
        (based.root / "staging").rmdir()
        there = tree(based.root)
        follower = Store.open(based.root, following=True)
        assert follower.id == based.id
        assert follower.head.read().version == "v0"
        assert tree(based.root) == there

    def test_the_model_must_be_that_of_the_store(self, based: Store) -> None:
        follower = Store.open(based.root, following=True)
        with pytest.raises(WrongModel, match="none yet"):
            follower.bind_model("aaaa")
        based.bind_model("aaaa")
        follower.bind_model("aaaa")
        with pytest.raises(WrongModel, match="JEEP_MODEL"):
            follower.bind_model("bbbb")

    def test_the_index_is_read_and_not_written(self, based: Store) -> None:
        follower = Store.open(based.root, following=True)
        with pytest.raises(NoIndex):  # there is none yet
            follower.catalogue.up_to_date()
        assert not (based.root / "index" / "catalogue.sqlite").exists()
        based.catalogue.up_to_date()
        reader = Store.open(based.root, following=True)
        assert reader.catalogue.spans("v0")
        made = add_version(based)
        with pytest.raises(NoIndex, match="behind"):
            reader.catalogue.spans(made)
        based.catalogue.up_to_date()
        assert reader.catalogue.spans(made)

    def test_a_damaged_index_is_left_to_the_writer(self, based: Store) -> None:
        path = based.root / "index" / "catalogue.sqlite"
        path.write_bytes(b"no index" * 1000)
        with pytest.raises(NoIndex):
            Store.open(based.root, following=True).catalogue.up_to_date()
        assert path.read_bytes() == b"no index" * 1000

    def test_head_is_seen_when_it_moves(self, based: Store) -> None:
        follower = Store.open(based.root, following=True)
        made = add_version(based)
        move(based, made, expected="v0")
        assert follower.head.read().version == made


class TestClaims:
    def test_the_attempt_that_has_begun_last_ends_a_job(
        self, store: Store, make_job: MakeJob
    ) -> None:
        job = make_job(kind=JobKind.DRIFT)
        store.journal.add(job)
        for attempt in ("first", "second"):
            with store.journal.claiming():
                store.journal.claim(job.id, attempt)
        with pytest.raises(ClaimLost):
            store.journal.save_claimed(ended(job, JobStatus.FAILED), "first")
        assert store.journal.read(job.id).status is JobStatus.QUEUED
        store.journal.save_claimed(ended(job), "second")
        assert store.journal.read(job.id).status is JobStatus.SUCCEEDED
        assert not list((store.root / "jobs").glob("*.claim"))
        with pytest.raises(ClaimLost):
            store.journal.check_claim(job.id, "second")

    def test_a_damaged_claim_is_nobodys(self, store: Store, make_job: MakeJob) -> None:
        job = make_job(kind=JobKind.DRIFT)
        store.journal.add(job)
        store.journal.claim(job.id, "mine")
        (store.root / "jobs" / f"{job.id}.claim").write_text("{")
        with pytest.raises(ClaimLost):
            store.journal.check_claim(job.id, "mine")

    def test_the_index_learns_of_an_end_that_a_follower_has_recorded(
        self, store: Store, make_job: MakeJob
    ) -> None:
        job = make_job(kind=JobKind.DRIFT)
        store.journal.add(job)
        follower = Store.open(store.root, following=True)
        follower.journal.claim(job.id, "mine")
        follower.journal.save_claimed(ended(job), "mine")
        [shown] = store.journal.all({JobStatus.SUCCEEDED})
        assert shown.id == job.id
        with store.catalogue.database.reading() as connection:
            [(ended_as,)] = connection.execute("SELECT ended FROM job")
        assert ended_as == "succeeded"
