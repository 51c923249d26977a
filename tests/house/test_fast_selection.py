"""Which tests are the fast ones, from the record of their seconds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import ROOT, durations
from support.durations import MIRRORS, FileRecord, choose, load, measured, save

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


class Item(SimpleNamespace):
    """As much of a test as a selection looks at."""

    __hash__ = object.__hash__


def test_only_fast_tests_of_chosen_files_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    name, other = "tests/deploy/test_a.py", "tests/deploy/test_b.py"
    records = {
        name: FileRecord(2, 5.2, {"test_slow[a]": 5.0}),
        other: FileRecord(1, 99.0),
    }
    monkeypatch.setattr(durations, "load", lambda: records)
    selection = durations.Selection(10.0)
    ignored = {path: selection.pytest_ignore_collect(ROOT / path) for path in (name, other)}
    assert ignored == {name: None, other: True}
    assert selection.pytest_ignore_collect(ROOT / "tests/deploy/test_new.py") is True
    assert selection.pytest_ignore_collect(ROOT / "tests/deploy") is None
    assert selection.pytest_ignore_collect(ROOT / "tests/conftest.py") is None
    items = [Item(nodeid=f"{name}::{test}") for test in ("test_slow[a]", "test_fast")]
    deselected: list[Any] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: deselected.extend(items))
    given: Any = list(items)
    selection.pytest_collection_modifyitems(SimpleNamespace(hook=hook), given)  # type: ignore[arg-type]
    assert (given, deselected) == ([items[1]], [items[0]])


def test_files_with_most_seconds_begin_and_the_whole_service_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = {
        "tests/deploy/test_a.py": FileRecord(2, 5.0),
        "tests/deploy/test_b.py": FileRecord(2, 9.0),
        "tests/e2e/test_c.py": FileRecord(2, 1.0),
    }
    monkeypatch.setattr(durations, "load", lambda: records)
    names = ["deploy/test_a.py", "deploy/test_b.py", "deploy/test_new.py", "e2e/test_c.py"]
    items: Any = [Item(nodeid=f"tests/{name}::test_x") for name in names]
    sorting = durations.Parallel().pytest_collection_modifyitems(items)
    next(sorting)
    next(sorting, None)
    assert [item.nodeid.partition("::")[0].removeprefix("tests/") for item in items] == [
        "e2e/test_c.py", "deploy/test_new.py", "deploy/test_b.py", "deploy/test_a.py",
    ]  # fmt: skip


@pytest.mark.parametrize(("process", "expected"), [("gw0", [1, 2]), ("gw3", [2, 1])])
def test_every_other_process_collects_from_the_end(process: str, expected: list[int]) -> None:
    collecting = durations.Parallel(process).pytest_make_collect_report(
        pytest.Session.__new__(pytest.Session)
    )
    next(collecting)
    report: Any = SimpleNamespace(result=[1, 2])
    with pytest.raises(StopIteration):
        collecting.send(report)
    assert report.result == expected


def test_an_interrupted_run_leaves_the_record_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Any] = []
    monkeypatch.setattr(durations, "load", dict)
    monkeypatch.setattr(durations, "save", saved.append)
    recorder = durations.Recorder()
    report = SimpleNamespace(nodeid="tests/x/test_a.py::test_b", when="call", seconds_alone=0.5)
    recorder.pytest_runtest_logreport(report)  # type: ignore[arg-type]
    for status in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.OK):
        recorder.pytest_sessionfinish(exitstatus=status)
    assert saved == [{"tests/x/test_a.py": FileRecord(1, 0.5)}]
