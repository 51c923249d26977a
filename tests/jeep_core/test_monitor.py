"""The caller of a long computation, as the computation sees it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jeep_core.errors import Cancelled
from jeep_core.monitor import NOTHING, Monitor, stop_if


def test_parts_that_are_not_given_do_nothing() -> None:
    NOTHING.report("optimise", 1, 2)
    NOTHING.check()
    NOTHING.give_way()


def test_stop_if_cancels_once_it_is_asked_to() -> None:
    asked: list[int] = []
    monitor = Monitor(check=stop_if(lambda: bool(asked)))
    monitor.check()
    asked.append(1)
    with pytest.raises(Cancelled):
        monitor.check()


def test_another_report_leaves_the_other_parts() -> None:
    heard: list[str] = []
    first = Monitor(lambda *_: heard.append("first"), lambda: heard.append("check"))
    second = first.reporting(lambda phase, done, total: heard.append(f"{phase} {done}/{total}"))
    second.report("write", 1, 2)
    second.check()
    first.report("write", 1, 2)
    assert heard == ["write 1/2", "check", "first"]


def test_it_needs_no_torch() -> None:
    code = "import sys, jeep_core.monitor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
