"""The laws that a simulation of workers obeys, and its record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from bench.library.simulated import __main__ as command
from bench.library.simulated import estimate
from bench.library.simulated.events import Job, Network, Unit, parts, seconds
from bench.library.simulated.recorded import Recorded, Round, read, write

TIMES = st.lists(st.floats(0.01, 10), min_size=1, max_size=30)
UNITS = st.builds(Unit, st.floats(0.01, 10), sent=st.floats(0, 1e6), received=st.floats(0, 1e6))
JOBS = st.builds(
    Job,
    st.lists(UNITS, min_size=1, max_size=20),
    serial_s=st.floats(0, 5),
    version=st.floats(0, 1e6),
    streamed=st.booleans(),
)
SLOW = Network(bandwidth=1e6, latency_s=0.01, handling_s=0.02)


def job_of(times: list[float], serial: float = 2.0, streamed: bool = False) -> Job:
    return Job([Unit(one) for one in times], serial, streamed=streamed)


@given(TIMES)
def test_one_worker_takes_the_sum_and_the_serial_part(times: list[float]) -> None:
    assert seconds(job_of(times), 1) == pytest.approx(sum(times) + 2.0)


@given(TIMES, st.integers(1, 40))
def test_no_number_of_workers_beats_the_longest_unit_or_the_even_share(
    times: list[float], workers: int
) -> None:
    found = seconds(job_of(times), workers)
    assert found >= max(max(times), sum(times) / workers) + 2.0 - 1e-9
    if workers >= len(times):
        assert found == pytest.approx(max(times) + 2.0)


@given(TIMES, st.integers(1, 40), st.booleans())
def test_one_more_worker_is_never_slower_without_a_network(
    times: list[float], workers: int, streamed: bool
) -> None:
    job = job_of(times, streamed=streamed)
    assert seconds(job, workers + 1) <= seconds(job, workers) + 1e-9


@given(JOBS)
def test_what_one_worker_takes_with_a_network_can_be_added_up(job: Job) -> None:
    spent = sum(
        unit.seconds + (unit.sent + unit.received) / SLOW.bandwidth
        + 2 * SLOW.latency_s + SLOW.handling_s
        for unit in job.units
    )  # fmt: skip
    expected = spent + job.version / SLOW.bandwidth + job.serial_s
    assert seconds(job, 1, SLOW) == pytest.approx(expected)


@given(JOBS, st.integers(1, 30))
def test_the_parts_of_a_job_add_up_to_it(job: Job, workers: int) -> None:
    found = parts([job], workers, SLOW)
    assert found.total == pytest.approx(seconds(job, workers, SLOW))
    assert found.waiting >= -1e-9
    assert (
        seconds(job, workers, SLOW)
        >= job.serial_s + sum(unit.received for unit in job.units) / SLOW.bandwidth
    )


def test_a_streamed_job_waits_for_the_first_unit_that_is_not_done() -> None:
    slow_first = [10.0, *[1.0] * 8]
    assert seconds(job_of(slow_first, 0.0), 2) == pytest.approx(10.0)
    # with two workers two results at most are held beside it
    assert seconds(job_of(slow_first, 0.0, streamed=True), 2) == pytest.approx(13.0)


def test_the_limit_is_named() -> None:
    job = job_of([1.0] * 64, serial=0.0)
    assert parts([job], 8, Network()).limit == "work"
    assert parts([job], 512, Network()).limit == "waiting"
    assert parts([replace(job, serial_s=99.0)], 64, Network()).limit == "serial"
    assert parts([job], 64, Network(handling_s=1.0)).limit == "handling"
    large = Job([Unit(1.0, received=1e6)] * 64)
    assert parts([large], 64, Network(bandwidth=1e6)).limit == "network"


def test_there_must_be_a_worker() -> None:
    with pytest.raises(ValueError, match="at least one worker"):
        seconds(job_of([1.0]), 0)


def test_a_record_comes_back_and_makes_jobs_of_any_size(tmp_path: Path) -> None:
    rounds = [Round([1.0, 2.0], [10, 20], [30, 40], 50, 0.1), Round([3.0], [1], [2], 60, 0.2)]
    one = Recorded("an edit", "m", "facts", 32, rounds, 3.0, 0.5)
    write(tmp_path / "units.json", "here", [one])
    assert read(tmp_path / "units.json") == [one]
    first, second, serial = one.jobs(100)
    assert [len(job.units) for job in (first, second, serial)] == [4, 4, 0]
    assert set(first.units) <= {Unit(1.0, 10, 30), Unit(2.0, 20, 40)}
    assert (first.version, second.version, one.handling_s) == (50, 60, 0.2)
    assert seconds(serial, 8) == serial.serial_s == 53.0
    assert one.jobs(100) == [first, second, serial]


def test_more_gpus_are_estimated_to_take_less_until_units_run_out() -> None:
    job = estimate.edit(estimate.BEST)
    times = [seconds(job, gpus, estimate.FAST) for gpus in (1, 8, 40, 64)]
    assert times[0] > times[1] > times[2] == times[3]
    slower = estimate.edit(estimate.WORST)
    assert seconds(slower, 8, estimate.FAST) > times[1]


def test_the_page_shows_what_the_recorded_times_lead_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command.report(ROOT / "docs" / "figures" / "workers.json", None)
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    page = (ROOT / "docs" / "performance.md").read_text("utf-8").splitlines()
    assert [line for line in shown if line not in page] == []
