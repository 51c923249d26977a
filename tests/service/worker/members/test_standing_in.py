"""The writer answers and measures where no follower does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from service.settings import Settings
from service.worker.members.common import writer_answers, writer_measures

TAKES, ONLY_ANSWERS, DRAINS = (True, True), (True, False), (False, False)


@pytest.mark.parametrize(
    ("followers", "answers", "measures"),
    [
        ([], True, True),
        ([TAKES], False, False),
        ([ONLY_ANSWERS], False, True),
        ([DRAINS], True, True),
        ([DRAINS, TAKES], False, False),
    ],
)
def test_the_writer_stands_in_for_followers(
    followers: list[tuple[bool, bool]], answers: bool, measures: bool
) -> None:
    beats = [SimpleNamespace(takes=takes, jobs=jobs) for takes, jobs in followers]
    members: Any = SimpleNamespace(followers=lambda: beats)
    alone, always = Settings(), Settings(writer_answers="always")
    assert (writer_answers(alone, members), writer_measures(alone, members)) == (answers, measures)
    assert (writer_answers(always, members), writer_measures(always, members)) == (True, True)
