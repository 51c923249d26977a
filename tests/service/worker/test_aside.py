"""Work beside the main part of a job, and the threads that are left for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from support.library import tiny

from jeep_core.executors.threads import every_thread, use_threads
from jeep_core.monitor import Cancelled
from service.worker import threads
from service.worker.aside import aside
from service.worker.threads import edit_threads


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    use_threads(2)
    yield
    use_threads(before)


def test_work_runs_beside_the_block_with_its_own_threads(two_threads: None) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(check: Callable[[], None]) -> tuple[int, str]:
        begun.set()
        assert go_on.wait(30)
        return torch.get_num_threads(), threading.current_thread().name

    with aside(work, 1) as result:
        assert begun.wait(30)  # while the block runs
        go_on.set()
        count, name = result()
        assert torch.get_num_threads() == 2
    assert count == 1
    assert name.startswith("aside")


def test_what_the_work_raises_is_raised_by_its_result(two_threads: None) -> None:
    def work(check: Callable[[], None]) -> None:
        raise ValueError("no answer")

    with aside(work, 1) as result, pytest.raises(ValueError, match="no answer"):
        result()


def test_work_ends_at_its_next_check_when_the_block_fails(two_threads: None) -> None:
    ended: list[str] = []

    def work(check: Callable[[], None]) -> None:
        try:
            while True:
                check()
                time.sleep(0.001)
        except Cancelled:
            ended.append("at a check")
            raise

    with pytest.raises(KeyError, match="of the block"), aside(work, 1):
        raise KeyError("of the block")
    assert ended == ["at a check"]


@pytest.mark.parametrize(
    ("facts", "small", "every", "own"),
    [(1, True, 2, 1), (1, False, 2, 1), (1, False, 8, 4), (1, False, 1, 1), (64, True, 2, 2)],
)
def test_a_few_facts_leave_threads_for_other_work(
    monkeypatch: pytest.MonkeyPatch, facts: int, small: bool, every: int, own: int
) -> None:
    monkeypatch.setattr(threads, "SMALL_MODEL", 10**12 if small else 0)
    before = torch.get_num_threads()
    use_threads(every)
    try:
        with edit_threads(tiny.random_model("llama"), facts) as free:
            assert torch.get_num_threads() == own
            assert every_thread() == every  # for what later edits find as well
            assert free == every - own
        assert torch.get_num_threads() == every
    finally:
        use_threads(before)
