"""Jobs are listed from the index as their records say."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.service.builders import ended

from service.contracts.jobs import Job, JobKind, JobStatus
from service.store import Store
from service.store.index import jobs

KINDS = (JobKind.EDIT, JobKind.EVALUATION, JobKind.PROBE)
QUERIES: list[dict[str, object]] = [
    {}, {"kind": JobKind.PROBE}, {"statuses": {JobStatus.FAILED}},
    {"statuses": {JobStatus.QUEUED, JobStatus.SUCCEEDED}, "kind": JobKind.EDIT},
]  # fmt: skip


@pytest.fixture
def filled(store: Store, make_job: Callable[..., Job]) -> Store:
    rng = random.Random(0)
    for _ in range(30):
        job = make_job(kind=rng.choice(KINDS))
        store.journal.add(job)
        if rng.random() < 0.7:
            store.journal.save(ended(job, rng.choice([JobStatus.SUCCEEDED, JobStatus.FAILED])))
    return store


def by_records(store: Store, **query: object) -> list[str]:
    """Without an index."""
    names = sorted((path.stem for path in (store.root / "jobs").glob("*.json")), reverse=True)
    records = [store.journal.read(name) for name in names]
    statuses, kind = query.get("statuses"), query.get("kind")
    return [
        job.id
        for job in records
        if (statuses is None or job.status in statuses)  # type: ignore[operator]
        and (kind is None or job.kind is kind)
    ]


def agrees(store: Store) -> None:
    for query in QUERIES:
        wanted = by_records(store, **query)
        assert [job.id for job in store.journal.all(**query)] == wanted  # type: ignore[arg-type]
        middle = wanted[len(wanted) // 2]
        older = [job.id for job in store.journal.all(**query, after=middle)]  # type: ignore[arg-type]
        assert older == wanted[len(wanted) // 2 + 1 :]


@pytest.mark.parametrize("batch", [2, 64])
def test_lists_are_those_of_the_records(
    filled: Store, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.index.jobs.BATCH", batch)
    agrees(filled)
    agrees(Store.open(filled.root))


def test_only_the_records_of_a_page_are_read(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    next(filled.journal.all(kind=JobKind.PROBE))
    read: list[str] = []
    whole = filled.journal._readable

    def counted(job_id: str) -> Job | None:
        read.append(job_id)
        return whole(job_id)

    monkeypatch.setattr(filled.journal, "_readable", counted)
    found = filled.journal.all(kind=JobKind.PROBE)
    assert [next(found).kind for _ in range(3)] == [JobKind.PROBE] * 3
    assert len(read) == 3


def test_a_job_that_a_killed_process_had_not_added_is_found(filled: Store) -> None:
    with filled.catalogue.database.writing() as connection:
        connection.execute("DELETE FROM job WHERE id IN (SELECT id FROM job LIMIT 5)")
        connection.execute("UPDATE job SET ended = NULL WHERE ended = 'failed'")
    agrees(Store.open(filled.root))


def test_a_job_that_came_while_another_process_wrote_is_found(
    filled: Store, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.index.database.BUSY_S", 0.01)
    monkeypatch.setattr("service.store.index.database.REST_S", 0.0)
    other = Store.open(filled.root)
    agrees(other)
    with filled.catalogue.database.writing():
        job = make_job(kind=JobKind.PROBE)
        other.journal.add(job)
    agrees(other)
    assert job.id in [one.id for one in other.journal.all()]


def test_a_job_that_came_while_a_process_began_stays_listed(
    filled: Store, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    agrees(filled)
    job, look = make_job(kind=JobKind.PROBE), jobs.listed

    def looked(*given: Any) -> Any:
        found = look(*given)
        filled.journal.add(job)
        return found

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(jobs, "listed", looked)
        list(Store.open(filled.root).journal.all())
    agrees(filled)


def test_without_an_index_the_folder_is_read(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.catalogue.database.close()
    for path in (filled.root / "index").iterdir():
        path.unlink()
    monkeypatch.setattr(Path, "mkdir", _refuse)
    monkeypatch.setattr("sqlite3.connect", _refuse)
    agrees(filled)


def _refuse(*_: object, **__: object) -> None:
    raise OSError(30, "Read-only file system")
