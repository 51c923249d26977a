"""Jobs that write no version are killed in every step: evaluations, checks, probes, exports, …

Of exports every format is, that as GGUF while each of llama.cpp's programs runs, too.
"""

from __future__ import annotations

import pytest
from support.faults.halts import CONVERTING, EXPORTING, READING
from support.faults.harness import EXPORTS, READ_JOBS, Service
from support.faults.processes import until
from support.faults.strikes import SIGNALS, strike

from service.contracts.jobs import JobStatus

IN_CI = {
    ("worker", "kill", "evaluation", "read work"),
    ("worker", "kill", "check", "read record"),
    ("worker", "kill", "export", "read placed"),
    ("worker", "term", "export", "read work"),
    ("worker", "kill", "gguf export", "read ask"),
    ("server", "kill", "trial", "read work"),
}


@pytest.fixture
def reading(service: Service) -> Service:
    service.add_cases()
    service.play_llama_cpp()
    return service


def case(victim: str, how: str, kind: str, step: str) -> object:
    marks = [] if (victim, how, kind, step) in IN_CI else [pytest.mark.thorough]
    return pytest.param(victim, how, kind, step, marks=marks)


@pytest.mark.parametrize(
    ("victim", "how", "kind", "step"),
    [case("worker", how, kind, step) for kind in READ_JOBS for step in READING for how in SIGNALS]
    + [case("worker", how, kind, step) for kind in EXPORTS for step in EXPORTING for how in SIGNALS]
    + [
        case("worker", how, kind, "read work")
        for kind in EXPORTS
        if kind != "export"
        for how in SIGNALS
    ]
    + [case("worker", how, "gguf export", step) for step in CONVERTING for how in SIGNALS]
    + [
        case(victim, "kill", kind, step)
        for kind in READ_JOBS
        for step in ("read work", "read record")
        for victim in ("api", "server")
    ],
)
def test_a_read_job_is_done_once_whoever_dies(
    reading: Service, victim: str, how: str, kind: str, step: str
) -> None:
    halts = reading.halt("worker", step)
    job, edit = reading.read_job(kind), reading.edit()
    reading.wait_halted(halts, step)
    if step in CONVERTING:
        assert reading.running_programs() or step != "read ask", "its server runs"
    strike(reading, victim, SIGNALS[how])
    if step in CONVERTING and how == "kill":
        until(lambda: not reading.running_programs(), "llama.cpp's programs end with their worker")
    for submitted in (job, edit):
        ended = reading.wait(submitted.id)
        assert ended.status is JobStatus.SUCCEEDED, ended.error
