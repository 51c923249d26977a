"""Followers are killed, stopped and told to end while they answer and measure.

``FAULTS_KILLS`` random kills of one of three (60 in ``make faults``, 3 else).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faults.answers import Answer
from support.faults.askers import TEMPLATE, WAYS, Answers, Asker
from support.faults.checks import assert_whole
from support.faults.halts import DECODING
from support.faults.harness import EVERYTHING, MODEL, Service
from support.faults.processes import PATIENCE_S, Part, until

from service.client import ApiError
from service.contracts.jobs import JobStatus
from service.settings import EXIT_AGAIN

KILLS = int(os.environ.get("FAULTS_KILLS") or (60 if EVERYTHING else 3))
SEED = int(os.environ.get("FAULTS_SEED") or (random.randrange(10**6) if EVERYTHING else 20))
HOWS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}
ASKERS = 3
BROKEN_OFF = "answer_broken_off"


@pytest.fixture(scope="module")
def led(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with three followers, a version, and cases."""
    folder = tmp_path_factory.mktemp("led", numbered=True)
    model = with_template(folder / "model")
    given = {"JEEP_MODEL": model, "JEEP_STALL_S": 5, "JEEP_DRAIN_S": 20}
    with Service(folder, followers=3, **given) as service:
        service.edited()
        service.add_cases()
        yield service
        assert_whole(service)


def with_template(folder: Path) -> Path:
    """The model of all services, which can be asked in a chat as well."""
    shutil.copytree(MODEL, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE}))
    return folder


@pytest.fixture
def service(led: Service) -> Iterator[Service]:
    """The shared service, ready; the case ends with the checks."""
    led.wait_ready()
    led.wait_followers(led.store.head.read().version)
    writer = led.worker.pid
    yield led
    assert_whole(led, start_again=led.worker.pid != writer)


def strike(service: Service, part: Part, how: str) -> None:
    """Break a follower, and start it again as a supervisor does; a stopped one is killed later."""
    part.signal(HOWS[how])
    if how == "stop":
        heard = {one.pid for one in service.persist(service.client.workers)}
        if part.pid in heard:
            until(lambda: part.pid not in pids(service), "the others see that it is silent")
        part.signal(signal.SIGCONT)
        return
    part.halts.let_go()
    assert part.ended() in (0, -HOWS[how])
    part.start()


def pids(service: Service) -> set[int]:
    return {one.pid for one in service.persist(service.client.workers)}


def halted(service: Service, place: str) -> Part:
    """The follower that has come to a place."""
    for part in service.followers:
        part.halts.want(place)

    def found() -> Part | None:
        return next((part for part in service.followers if part.halts.reached()), None)

    part = until(found, f"a follower reaches {place!r}")
    for other in service.followers:
        if other is not part:
            other.halts.let_go()
    return part


def test_followers_answer_and_the_writer_does_not(service: Service) -> None:
    def takes(part: Part) -> bool:
        return {one.pid: one.takes for one in service.client.workers()}[part.pid]

    until(lambda: not takes(service.worker), "the writer leaves answers to followers")
    assert all(map(takes, service.followers))
    head = service.store.head.read().version
    [answer] = service.client.generate("Lyon lies in").results
    assert answer.version == head


def test_head_is_followed_to_a_commit_and_back(service: Service) -> None:
    before = service.store.head.read().version
    made = service.edited().result["version"]
    service.wait_followers(made)
    service.rollback(before)
    service.wait_followers(before)
    [answer] = service.client.generate("Lyon lies in", min_version=made).results
    assert answer.version == before, "after a rollback an older version is the later head"


@pytest.mark.parametrize("how", [pytest.param("stop", marks=pytest.mark.thorough), "kill"])
def test_a_request_without_a_token_is_answered_by_another(service: Service, how: str) -> None:
    for part in service.followers:
        part.halts.want(DECODING)
    answer = Answer(service)
    part = halted(service, DECODING)
    strike(service, part, how)
    assert answer.ended() == "result"


def test_a_hanging_follower_is_given_up_though_its_heart_beats(service: Service) -> None:
    for part in service.followers:
        part.halts.want(DECODING)
    answer = Answer(service)
    part = halted(service, DECODING)
    assert answer.ended() == "result"
    until(lambda: not part.alive, "it ends itself, to be started again")
    part.halts.let_go()
    service.wait_followers()


def test_a_stream_with_tokens_ends_with_a_reason(service: Service) -> None:
    answer = Answer(service)
    until(lambda: answer.tokens > 1 or answer.end, "tokens have come")
    if not answer.end:
        part = halted(service, DECODING)
        strike(service, part, "kill")
        assert answer.ended() in (BROKEN_OFF, "result")
        assert answer.end == BROKEN_OFF or answer.tokens


def test_a_follower_that_is_told_to_stop_answers_what_it_has(service: Service) -> None:
    for part in service.followers:
        part.halts.want(DECODING)
    answer = Answer(service)
    part = halted(service, DECODING)
    part.signal(signal.SIGTERM)
    until(lambda: state_of(service, part) == "draining", "it says that it drains")
    part.halts.let_go()
    assert answer.ended() == "result"
    assert part.ended() == 0
    part.start()


def state_of(service: Service, part: Part) -> str | None:
    found = (one for one in service.client.workers() if one.pid == part.pid)
    return next((one.state for one in found), None)


@pytest.mark.parametrize(
    ("how", "step"),
    [
        pytest.param(how, step, marks=[] if (how, step) == ("kill", "read work") else thorough)
        for thorough in [[pytest.mark.thorough]]
        for how in HOWS
        for step in ("read begin", "read work", "read seal", "read record", "read finish")
    ],
)
def test_a_job_of_a_follower_is_done_once(service: Service, how: str, step: str) -> None:
    for part in service.followers:
        part.halts.want(step)
    job = service.read_job("evaluation")
    part = halted(service, step)
    strike(service, part, how)
    part.halts.let_go()
    assert service.wait(job.id).status is JobStatus.SUCCEEDED


def test_a_job_of_a_follower_is_cancelled(service: Service) -> None:
    for part in service.followers:
        part.halts.want("read work")
    job = service.read_job("evaluation")
    part = halted(service, "read work")
    service.cancel(job.id)
    part.halts.let_go()
    assert service.wait(job.id).status is JobStatus.CANCELLED


@pytest.mark.thorough
def test_a_job_that_hangs_is_taken_over_and_can_be_cancelled(tmp_path: Path) -> None:
    with Service(tmp_path, followers=2, JEEP_STALL_S=1) as service:
        service.edited()
        service.add_cases()
        for how in ("cancel", "go on"):
            for one in service.followers:
                one.halts.want("read work")
            job = service.read_job("evaluation")
            part = halted(service, "read work")
            if how == "cancel":
                service.cancel(job.id)
            assert part.ended() == EXIT_AGAIN
            part.halts.let_go()
            wanted = JobStatus.CANCELLED if how == "cancel" else JobStatus.SUCCEEDED
            assert service.wait(job.id).status is wanted
            service.wait_followers()
        assert_whole(service)


def test_without_the_writer_followers_answer_and_edits_wait(service: Service) -> None:
    service.worker.kill()
    until(lambda: service.worker.pid not in pids(service), "the writer is missed")
    [answer] = service.client.generate("Lyon lies in").results
    assert answer.version == service.store.head.read().version
    with pytest.raises(ApiError) as refused:
        service.client.rollback("base")
    assert refused.value.problem.code == "no_worker"
    service.worker.start()
    service.edited()


def test_no_request_is_lost_to_random_kills(service: Service) -> None:
    print(f"\n{KILLS} random kills of followers, FAULTS_SEED={SEED}")
    chance, stop = random.Random(SEED), threading.Event()
    askers = [Asker(service.url, service.store, SEED + n, stop, WAYS) for n in range(ASKERS)]
    for asker in askers:
        asker.start()
    for number in range(1, KILLS + 1):
        did = one_kill(service, chance)
        print(f"{number:3} {did}, {sum(len(a.asked) for a in askers)} asked", flush=True)
        settled(askers)
    stop.set()
    for asker in askers:
        asker.join(2 * PATIENCE_S)
        assert not asker.is_alive(), "a request has no end"
    asked = [one for asker in askers for one in asker.asked]
    ended = Counter(one.code or "answered" for one in asked)
    again = service.api.log.read_text().count("another worker is asked")
    print(f"{dict(ended)}, {again} asked of another worker", flush=True)
    answers = Answers(service.store)
    assert ended.keys() <= {"answered", BROKEN_OFF}, ended
    assert all(one.stream and one.tokens for one in asked if one.code)
    wrong = [one for one in asked if one.code is None and not answers.are_right(one)]
    assert not wrong, wrong
    log = service.store.head_log
    for one in asked:
        if one.version is not None and one.minimum is not None:
            assert log.is_at_least(one.version, one.minimum), one
        if one.version is not None and one.wanted not in ("head", "base"):
            assert one.version == one.wanted
    assert len(asked) > KILLS
    assert {one.way for one in asked if one.code is None} == {*WAYS}


def one_kill(service: Service, chance: random.Random) -> str:
    """Break a follower while versions come and go, and let it come back."""
    part, how = chance.choice(service.followers), chance.choice([*HOWS])
    work = chance.choice(["edit", "rollback", "evaluation", ""])
    if work == "edit":
        service.edit()
    elif work == "rollback":
        line = service.store.versions.all()
        service.rollback(chance.choice(line).id)
    elif work:
        service.read_job(work)
    time.sleep(chance.uniform(0, 0.7))
    strike(service, part, how)
    service.wait_followers()
    return f"{how} {part.name}{f', {work}' if work else ''}"


def settled(askers: list[Asker]) -> None:
    """Wait until what was asked before now is answered: a request is not to meet two kills."""
    known = {asker: len(asker.asked) for asker in askers}
    until(
        lambda: all(len(asker.asked) > count for asker, count in known.items()),
        "the requests go on",
    )


def test_one_follower_writes_nothing_and_the_writer_stands_in_for_it(tmp_path: Path) -> None:
    with Service(tmp_path, followers=1) as service:
        service.edited()
        head = service.store.head.read().version
        service.wait_followers(head)
        service.worker.kill()
        until(lambda: service.worker.pid not in pids(service), "the writer is missed")
        before = tree(service.root)
        service.client.generate("Lyon lies in", version=["base", "head"])
        service.client.explain("Town 1 lies in")
        service.followers[0].stop()
        service.followers[0].start()
        until(lambda: service.followers[0].pid in pids(service), "it has joined again")
        service.client.generate("Lyon lies in", version=["base", "head"])
        assert tree(service.root) == before
        service.worker.start()
        service.wait_ready()
        service.followers[0].halts.want(DECODING)
        answer = Answer(service)
        until(service.followers[0].halts.reached, "the follower decodes")
        service.followers[0].kill()
        assert answer.ended() == "result", "the writer answers where no follower is left"
        assert_whole(service)


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Every file of a store with its time and size, but what the index's readers map."""
    found = (path for path in root.rglob("*") if path.is_file() and "-shm" not in path.name)
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in found
    }
