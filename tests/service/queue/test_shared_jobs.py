"""Jobs that several workers may take: one of them does each, also where one dies."""

from __future__ import annotations

import time

import pytest
from redis import Redis
from support.service.builders import FENCE, KEYS, MakeJob, ended, live_state, take

from service.contracts.jobs import Job, JobKind, JobStatus, Lane, now
from service.queue import AsyncQueue, Heartbeat, JobQueue, Members, WorkerBeat, jobs

MINE, OTHERS = "mine", "others"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ORPHANED_MS", 20)


def shared(make_job: MakeJob) -> Job:
    return make_job(kind=JobKind.DRIFT)


def reading(client: Redis, consumer: str = "worker", *alive: str, shares: bool = True) -> JobQueue:
    return JobQueue(
        client, KEYS, Lane.READ, consumer, members=lambda: {*alive}, shares=lambda: shares
    )


@pytest.mark.parametrize(
    ("kind", "payload", "is_shared"),
    [
        (JobKind.EVALUATION, {"versions": ["v1"]}, True),
        (JobKind.EVALUATION, {"editor": "memit"}, False),
        (JobKind.DRIFT, {}, True),
        (JobKind.CHECK, {}, True),
        (JobKind.PROBE, {"version": "v1"}, True),
        (JobKind.PROBE, {"version": "v0"}, False),
        (JobKind.EXPORT, {}, False),
        (JobKind.HYPERNETWORK, {}, False),
        (JobKind.EDIT, {}, False),
    ],
)
def test_a_job_is_shared_if_it_writes_nothing_but_its_report(
    make_job: MakeJob, kind: JobKind, payload: dict[str, object], is_shared: bool
) -> None:
    assert make_job(kind=kind, payload=payload).shared == is_shared


def test_a_follower_takes_shared_jobs_alone_and_the_writer_all(
    client: Redis, make_job: MakeJob
) -> None:
    queue = reading(client, "worker", MINE)  # which lives, however long the test takes
    training, drift = make_job(kind=JobKind.HYPERNETWORK), shared(make_job)
    for job in (training, drift):
        queue.submit(job)
    follower = reading(client, MINE)
    assert take(follower).id == drift.id
    assert take(queue).id == training.id
    queue.finish(ended(queue.begin(take(queue), FENCE)), FENCE)
    assert queue.next(0) is None


def test_a_writer_that_leaves_them_to_followers_takes_its_own_alone(
    client: Redis, make_job: MakeJob
) -> None:
    queue = reading(client, shares=False)
    queue.submit(shared(make_job))
    assert queue.next(0) is None
    own = make_job(kind=JobKind.EXPORT)
    queue.submit(own)
    assert take(queue).id == own.id


def test_a_dead_workers_job_comes_before_newer_ones(client: Redis, make_job: MakeJob) -> None:
    dead = reading(client, OTHERS)
    first, second = shared(make_job), shared(make_job)
    for job in (first, second):
        dead.submit(job)
    dead.begin(take(dead), None)
    time.sleep(0.05)
    assert take(reading(client, "third", OTHERS)).id == second.id, "the other lives"
    mine = reading(client, MINE, "third")
    assert take(mine).id == first.id
    again = mine.begin(take(mine), None)
    assert again.attempt == 2
    mine.finish(ended(again), None)
    state = live_state(client, first.id)
    assert state is not None
    assert state.status is JobStatus.SUCCEEDED


def test_one_of_two_takes_over(client: Redis, make_job: MakeJob) -> None:
    dead = reading(client, OTHERS)
    dead.submit(shared(make_job))
    take(dead)
    time.sleep(0.05)
    found = [reading(client, name, "a", "b").next(0) for name in ("a", "b")]
    assert [one is None for one in found] == [False, True]


def test_a_job_that_was_given_back_is_taken_by_another(client: Redis, make_job: MakeJob) -> None:
    leaving = reading(client, OTHERS)
    leaving.submit(shared(make_job))
    begun = leaving.begin(take(leaving), None)
    leaving.give_back(begun, None)
    leaving.leave()
    time.sleep(0.05)
    mine = reading(client, MINE)
    assert mine.begin(take(mine), None).attempt == 1


def test_members_are_those_whose_hearts_beat(client: Redis) -> None:
    members = Members(client, KEYS)
    known = {"pid": 1, "model": "m", "started_at": now()}
    writer = WorkerBeat.model_validate({"instance": "w", **known})
    follower = WorkerBeat.model_validate({"instance": "f", "role": "follower", **known})
    hearts = [Heartbeat(client, KEYS, lambda one=one: one) for one in (writer, follower)]
    for heart in hearts:
        heart.beat()
    assert members.consumers() == {"worker", "f"}
    assert [one.instance for one in members.followers()] == ["f"]
    for heart in hearts:
        heart.stop()
    assert Members(client, KEYS).consumers() == set()
    assert client.zcard(KEYS.followers) == 0


@pytest.mark.anyio
async def test_what_a_dead_worker_had_begun_waits_and_what_a_live_one_has_does_not(
    api: AsyncQueue, client: Redis, make_job: MakeJob
) -> None:
    beats = {
        name: WorkerBeat(instance=name, pid=1, model="m", started_at=now(), role="follower")
        for name in (MINE, OTHERS)
    }
    hearts = {name: Heartbeat(client, KEYS, lambda b=beat: b) for name, beat in beats.items()}
    queue = JobQueue(client, KEYS)
    for heart in hearts.values():
        heart.beat()
    assert (await api.waiting_for(Lane.READ))["any"].jobs == 0, "there is no such stream yet"
    for _ in range(2):
        queue.submit(shared(make_job))
    reader = reading(client, OTHERS, MINE, OTHERS)
    reader.begin(take(reader), None)
    assert (await api.waiting_for(Lane.READ))["any"].jobs == 1
    hearts[OTHERS].stop()
    assert (await api.waiting_for(Lane.READ))["any"].jobs == 2


@pytest.mark.parametrize(
    ("described", "able"),
    [
        ({"head": "v1"}, True),
        ({"head": "v1", "damaged": ["v2"]}, True),
        ({"head": "v1", "takes": False}, False),
        ({"head": "v1", "damaged": ["v1"]}, False),
        ({"head": None}, False),
        ({"head": "v1", "state": "stuck"}, False),
        ({"head": "v1", "state": "draining"}, False),
    ],
)
def test_requests_are_left_to_a_follower_that_takes_them_and_can_answer(
    client: Redis, described: dict[str, object], able: bool
) -> None:
    heard(client, OTHERS, **described)
    members = Members(client, KEYS)
    assert members.is_follower_taking() == able
    assert members.is_another_for(MINE, pauses=False) == able
    assert not members.is_another_for(OTHERS, pauses=False), "itself is not another one"


def test_they_are_left_to_a_writer_that_only_stands_by(client: Redis) -> None:
    heard(client, OTHERS, role="writer", head="v1", takes=False)
    members = Members(client, KEYS)
    assert members.is_another_for(MINE, pauses=True)
    assert not members.is_follower_taking()


@pytest.mark.parametrize("writer", [None, "ready", "draining"])
def test_of_workers_that_all_pause_one_goes_on(client: Redis, writer: str | None) -> None:
    """Whatever their last heartbeats say: each may have begun to pause since."""
    for name in ("one", "three", "two"):
        heard(client, name, head="v1")
    if writer is not None:
        heard(client, "writer", role="writer", head="v1", state=writer)
    members = Members(client, KEYS)
    going_on = [n for n in ("one", "three", "two") if not members.is_another_for(n, pauses=True)]
    assert going_on == ([] if writer == "ready" else ["one"])
    for name in ("one", "three", "two"):
        heard(client, name, head="v1", takes=False)
    assert not Members(client, KEYS).is_follower_taking(), "so the writer goes on"


def heard(client: Redis, instance: str, **described: object) -> None:
    """A worker's heartbeat, a follower's if nothing else is said."""
    known = {"pid": 1, "model": "m", "started_at": now(), "role": "follower"}
    beat = WorkerBeat.model_validate({"instance": instance, **known, **described})
    Heartbeat(client, KEYS, lambda: beat).beat()
