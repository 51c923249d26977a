"""Worker, api and queue server die while an answer is written."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest
from support.faults.answers import Answer
from support.faults.halts import DECODING
from support.faults.harness import Service
from support.faults.processes import PATIENCE_S, until
from support.faults.strikes import SIGNALS, VICTIMS, strike

CODES = ("no_worker", "answer_broken_off", "no_queue", "worker_timeout")


def in_ci(victim: str, how: str) -> Any:
    marks = [] if victim == "worker" else [pytest.mark.thorough]
    return pytest.param(victim, how, marks=marks)


@pytest.mark.parametrize(
    ("victim", "how"), [in_ci(victim, how) for victim in VICTIMS for how in SIGNALS]
)
def test_an_answer_ends_with_its_result_or_a_reason(
    service: Service, victim: str, how: str
) -> None:
    halts = service.halt("worker", DECODING)
    answer = Answer(service)
    until(halts.reached, "the worker decodes")
    began = time.monotonic()
    strike(service, victim, SIGNALS[how])
    end = answer.ended()
    # a worker that is back before it was missed answers what it had not begun to
    allowed = {
        "worker": ("result", *CODES),
        "server": ("result", *CODES),
        "api": ("result", "lost", "stopping", *CODES),
    }
    if (victim, how) == ("worker", "term"):
        assert end == "result", "it goes on answering for JEEP_DRAIN_S"
    assert end in allowed[victim]
    assert time.monotonic() - began < PATIENCE_S
    service.wait_ready()
    whole = Answer(service)
    assert whole.ended() == "result"
    assert whole.tokens


def test_a_writer_that_is_told_to_stop_says_so_and_answers_what_it_has(service: Service) -> None:
    halts = service.halt("worker", DECODING)
    begun = Answer(service)
    until(halts.reached, "the worker decodes")
    service.worker.signal(signal.SIGTERM)

    def drains() -> bool:
        return [(one.state, one.takes, one.jobs) for one in service.client.workers()] == [
            ("draining", False, False)
        ]

    until(drains, "it says that it drains")
    late = Answer(service)
    halts.let_go()
    assert begun.ended() == "result"
    assert service.worker.ended() == 0
    assert late.ended() in ("no_worker", "result"), "it may have been read a moment before"
    service.worker.start()


def test_an_api_that_is_told_to_stop_ends_the_answers_that_it_gives(service: Service) -> None:
    halts = service.halt("worker", DECODING)
    begun = Answer(service)
    until(halts.reached, "the worker decodes")
    service.api.signal(signal.SIGTERM)
    until(lambda: "Waiting for connections to close" in service.api.log.read_text(), "it stops")
    time.sleep(1)  # streams look for it twice a second
    halts.let_go()
    assert begun.ended() == "result"
    service.api.ended()
    service.api.start()
    service.wait_ready()
