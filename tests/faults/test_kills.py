"""Worker, api and queue server are killed or terminated, in every phase of a job and at random.

``FAULTS_KILLS`` random kills (60 in ``make faults``, 4 else); ``FAULTS_SEED`` repeats a run, whose
seed is printed.
"""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any

import pytest
from support.faults.answers import Answer
from support.faults.checks import assert_whole
from support.faults.halts import ACCEPTING, PHASES, STEPS
from support.faults.harness import EVERYTHING, HPARAMS, READ_JOBS, Service
from support.faults.processes import until
from support.faults.strikes import SIGNALS, VICTIMS, strike

from service.contracts.jobs import JobStatus

KILLS = int(os.environ.get("FAULTS_KILLS") or (60 if EVERYTHING else 4))
SEED = int(os.environ.get("FAULTS_SEED") or (random.randrange(10**6) if EVERYTHING else 20))
IN_CI = {("worker", "kill", "swap"), ("worker", "term", "optimise"), ("server", "kill", "write")}


def case(victim: str, how: str, phase: str) -> object:
    marks = [] if (victim, how, phase) in IN_CI else [pytest.mark.thorough]
    return pytest.param(victim, how, phase, marks=marks)


@pytest.mark.parametrize(
    ("victim", "how", "phase"),
    [
        case(victim, how, phase)
        for phase in (*PHASES, *STEPS)
        for victim in VICTIMS
        for how in SIGNALS
    ],
)
def test_a_job_is_done_once_whoever_dies_in_a_phase(
    service: Service, victim: str, how: str, phase: str
) -> None:
    if phase == "moments":
        service.forget_moments()
    halts = service.halt("worker", phase)
    first, second = service.edit(facts=2), service.edit()
    until(halts.reached, f"the worker reaches {phase!r}")
    strike(service, victim, SIGNALS[how])
    for job in (first, second):
        assert service.wait(job.id).status is JobStatus.SUCCEEDED


TUNED = {"editor": "crispedit", "hparams": {"layers": [1, 2], "n_passes": 2}}
STANDARDISED = {"editor": "ultraedit", "hparams": {"layers": [1, 2], "n_prefixes": 3}}
ANCHORED = {"editor": "memit", "hparams": {**HPARAMS, "norm_anchor": True}}


@pytest.mark.parametrize("how", ["kill", pytest.param("term", marks=pytest.mark.thorough)])
@pytest.mark.parametrize(
    ("phase", "given"),
    [
        pytest.param("gradients", STANDARDISED),
        pytest.param("solve", STANDARDISED, marks=pytest.mark.thorough),
        pytest.param("moments", TUNED, marks=pytest.mark.thorough),
        pytest.param("gradients", TUNED, marks=pytest.mark.thorough),
        pytest.param("fine-tune", TUNED, marks=pytest.mark.thorough),
        pytest.param("anchor", ANCHORED, marks=pytest.mark.thorough),
    ],
)
def test_editors_with_a_state_or_files_of_their_own_do_their_job_once(
    service: Service, how: str, phase: str, given: dict[str, Any]
) -> None:
    """The second edit goes on from the state that the first one has left in its version."""
    if phase == "moments":
        service.forget_moments()
    for kept in (service.root / "base" / "probes").glob("anchor-*.json"):
        kept.unlink()
    halts = service.halt("worker", phase)
    first, second = service.edit(facts=2, **given), service.edit(**given)
    until(halts.reached, f"the worker reaches {phase!r}")
    strike(service, "worker", SIGNALS[how])
    for job in (first, second):
        assert service.wait(job.id).status is JobStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("how", "step"),
    [
        pytest.param(
            how, step, marks=[] if (how, step) == ("kill", "journal") else [pytest.mark.thorough]
        )
        for step in ACCEPTING
        for how in SIGNALS
    ],
)
def test_an_api_that_dies_while_it_takes_a_job_takes_it_once(
    service: Service, how: str, step: str
) -> None:
    halts = service.halt("api", step)
    submitting = threading.Thread(target=service.edit)
    submitting.start()
    until(halts.reached, f"the api reaches {step!r}")
    strike(service, "api", SIGNALS[how])
    submitting.join()


def test_after_random_kills_every_job_is_done_once(service: Service) -> None:
    service.add_cases()
    print(f"\n{KILLS} random kills, FAULTS_SEED={SEED}")
    chance = random.Random(SEED)
    for number in range(1, KILLS + 1):
        did = one_kill(service, chance)
        print(f"{number:3} {did}", flush=True)
        for job_id in service.accepted:
            service.wait(job_id)
        if number % 8 == 0 and number < KILLS:
            assert_whole(service)


def one_kill(service: Service, chance: random.Random) -> str:
    """Start some work and break a part of the service in the middle of it."""
    victim, how = chance.choice(VICTIMS), chance.choice([*SIGNALS])
    phase = chance.choice([*PHASES, *STEPS, None, None, None])
    if phase == "moments":
        service.forget_moments()
    asked = prepare(service, chance)
    halts = service.halt("worker", phase) if phase else None
    jobs = [
        service.edit(facts=chance.randint(1, 3), activate=last or chance.random() < 0.7)
        for last in chance.choice([(True,), (False, True)])
    ]
    delay = chance.uniform(0, 0.5)
    if halts is not None:
        service.wait_halted(halts, str(phase))
    else:
        time.sleep(delay)
    if chance.random() < 0.2:
        service.cancel(jobs[-1].id)
        asked += ", a cancel"
    answer = Answer(service)
    strike(service, victim, SIGNALS[how])
    where = phase or f"{delay:.2f} s"
    return f"{how} {victim} at {where}{asked}; an answer: {answer.ended()}"


def prepare(service: Service, chance: random.Random) -> str:
    """Sometimes a rollback, a revert, a name or a job of the other lane goes ahead of the edits."""
    action = chance.choice(["", "", "rollback", "revert", "name", *READ_JOBS])
    client, store = service.client, service.store
    line = store.versions.lineage(store.head.read().version)
    version = chance.choice(line)
    if action == "rollback":
        service.rollback(version.id)
    elif action == "revert" and version.edit_id is not None:
        service.revert(version.edit_id)
    elif action == "name":
        name = f"name{len(store.names.all())}"
        service.persist(lambda: client.name_snapshot(name, version.id))
    elif action in READ_JOBS:
        service.read_job(action)
    else:
        return ""
    return f", {action}"
