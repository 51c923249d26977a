"""``make test-fast``: what it leaves out."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("selection", TESTS / "conftest.py")
assert spec is not None
assert spec.loader is not None
selection = importlib.util.module_from_spec(spec)
spec.loader.exec_module(selection)


def test_the_slowest_files_are_left_out() -> None:
    recorded = {"a": 5.0, "b": 1.0, "c": 90.0, "d": 3.0}
    assert selection.slow_files(recorded, 10) == {"c"}
    assert selection.slow_files(recorded, 4) == {"a", "c"}
    assert selection.slow_files(recorded, 100) == set()
    assert selection.slow_files(recorded, 0) == set(recorded)


def test_most_files_are_quick_and_all_that_are_named_are_there() -> None:
    recorded = json.loads((TESTS / "durations.json").read_text(encoding="utf-8"))
    assert [name for name in recorded if not (TESTS.parent / name).is_file()] == []
    slow = selection.slow_files(recorded, selection.BUDGET_S)
    assert len(slow) < len(recorded) / 2
