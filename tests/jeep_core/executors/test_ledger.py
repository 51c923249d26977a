"""The sentence for a unit that no worker has done: every cause has its own words."""

from __future__ import annotations

import pytest

from jeep_core.errors import WorkersLost
from jeep_core.executors.ledger import Ledger
from jeep_core.executors.work import Work

TASK = "jeep_core.moments.sums:block_unit"
KILLED, ENDED, GAVE_UP = "signal 9", "exit code 3", None


@pytest.mark.parametrize(
    ("causes", "said", "memory_first"),
    [
        (
            [KILLED, KILLED, KILLED],
            "3 workers ended in the same part of the work (signal 9): a worker may have too little",
            True,
        ),
        (
            [ENDED, ENDED, ENDED],
            "3 workers ended in the same part of the work (exit code 3): a library in it may have",
            False,
        ),
        ([ENDED, KILLED], "(exit code 3, signal 9): a worker may have too little memory", True),
        (
            [GAVE_UP, GAVE_UP, GAVE_UP],
            "3 workers gave up the same part of the work though nobody had asked for it: this is a "
            "fault of the program",
            False,
        ),
        (
            [GAVE_UP, KILLED, GAVE_UP],
            "1 worker ended in the same part of the work (signal 9), and 2 workers gave it up",
            True,
        ),
    ],
)
def test_a_unit_that_nobody_does_fails_with_the_cause(
    causes: list[str | None], said: str, memory_first: bool
) -> None:
    ledger = Ledger(Work(TASK, "count", None, [1], [1]), lambda *_: None, tries=len(causes))
    for cause in causes:
        assert ledger.next() == 0
        if cause is None:
            ledger.returned(0)
        else:
            ledger.lost(0, cause)
    assert ledger.finished
    with pytest.raises(WorkersLost) as caught:
        ledger.results()
    assert said in str(caught.value)
    assert ("a worker may have too little memory" in str(caught.value)) == memory_first
