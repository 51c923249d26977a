"""The clock is set back by an hour while jobs run: nothing waits until it has caught up."""

from __future__ import annotations

import pytest
from support.faults.checks import assert_whole
from support.faults.processes import until

from service.contracts.jobs import JobStatus

AN_HOUR = -3600.0


@pytest.mark.thorough
@pytest.mark.parametrize("place", ["optimise", "write", "swap"])
def test_work_goes_on_in_order_when_the_clock_is_set_back(own, place: str) -> None:
    service = own()
    before = service.edited()
    halts = service.halt("worker", place)
    jobs = [service.edit(), service.edit()]
    until(halts.reached, f"the worker reaches {place!r}")
    service.set_clock(AN_HOUR)
    jobs += [service.edit(), service.edit()]
    service.server.client.flushall()  # the order is now the store's
    halts.let_go()
    done = [service.wait(job.id) for job in jobs]
    assert [job.status for job in done] == [JobStatus.SUCCEEDED] * 4
    made = [int(job.result["version"][1:]) for job in done]
    assert made == sorted(made)
    assert done[-1].finished_at < before.finished_at
    assert service.client.rollback("base").version == "v0"
    assert_whole(service)
