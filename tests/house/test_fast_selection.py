"""Which tests are the fast ones, from the record of their seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support import ROOT
from support.durations import MIRRORS, FileRecord, choose, file_of, load, measured, save

FAST_S = 60.0
"""As in the Makefile; with two processes and collection it is less than two minutes."""


def test_cheap_files_come_first_and_the_rest_must_fit() -> None:
    records = {
        "tests/deploy/test_a.py": FileRecord(10, 1.0),
        "tests/deploy/test_b.py": FileRecord(100, 5.0),
        "tests/deploy/test_c.py": FileRecord(2, 4.0),
        "tests/deploy/test_d.py": FileRecord(1, 3.0),
    }
    assert choose(records, 6.0) == ["tests/deploy/test_b.py", "tests/deploy/test_a.py"]
    assert choose(records, 10.0) == [
        "tests/deploy/test_b.py", "tests/deploy/test_a.py", "tests/deploy/test_c.py",
    ]  # fmt: skip


def test_every_room_has_its_cheapest_file_but_no_whole_service() -> None:
    records = {
        "tests/jeep_core/text/test_a.py": FileRecord(1, 50.0),
        "tests/jeep_core/text/test_b.py": FileRecord(1, 40.0),
        "tests/service/cli/test_c.py": FileRecord(1, 9.0),
        "tests/e2e/test_d.py": FileRecord(100, 1.0),
    }
    assert choose(records, 10.0) == [
        "tests/service/cli/test_c.py",
        "tests/jeep_core/text/test_b.py",
    ]


def test_slow_tests_do_not_count_and_a_file_of_slow_ones_is_left_out() -> None:
    records = {
        "tests/deploy/test_a.py": FileRecord(3, 31.0, {"test_x": 30.0}),
        "tests/deploy/test_b.py": FileRecord(1, 30.0, {"test_y": 30.0}),
    }
    assert records["tests/deploy/test_a.py"].fast_seconds == 1.0
    assert records["tests/deploy/test_a.py"].rate == 0.5
    assert choose(records, 2.0) == ["tests/deploy/test_a.py"]


def test_a_record_adds_up_set_up_call_and_tear_down(tmp_path: Path) -> None:
    one, two = "tests/x/test_a.py::test_one", "tests/x/test_a.py::TestB::test_two[a-b]"
    took = [
        (one, "setup", 3.0), (one, "call", 0.25), (one, "teardown", 0.25),
        (two, "setup", 0.5), (two, "call", 1.5),
    ]  # fmt: skip
    found = measured(took)
    assert found == {"tests/x/test_a.py": FileRecord(2, 5.5, {"TestB::test_two[a-b]": 1.5})}
    save(found, tmp_path / "durations.json")
    assert load(tmp_path / "durations.json") == found
    assert load(tmp_path / "none.json") == {}


def test_the_committed_record_has_tests_of_every_room_and_keeps_the_time() -> None:
    records = load()
    chosen = choose(records, FAST_S)
    rooms = {
        path.parent.relative_to(ROOT).as_posix()
        for folder in MIRRORS
        for path in (ROOT / folder).rglob("test_*.py")
    }
    recorded = {name.rpartition("/")[0] for name in records}
    assert {name.rpartition("/")[0] for name in chosen} >= rooms & recorded
    assert sum(records[name].fast_seconds for name in chosen) <= 1.5 * FAST_S
    assert f"--fast {FAST_S:.0f}" in (ROOT / "Makefile").read_text()


def test_only_chosen_files_are_collected() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--fast=1", "tests/deploy"]
    shown = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    ).stdout
    collected = {file_of(line) for line in shown.splitlines() if "::" in line}
    assert collected == {name for name in choose(load(), 1.0) if "/deploy/" in name}
