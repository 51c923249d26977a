"""``--fast``: what a person runs while editing; ``--record-durations`` finds out what that is.

``durations.json`` has the seconds that every test file took.  ``--fast`` leaves out the slowest, so
that the others take no longer than ``BUDGET_S``, and the tests that start whole services; a file without a
figure, as a new one, is run.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DURATIONS = Path(__file__).parent / "durations.json"
BUDGET_S = 60.0
"""Of the tests themselves; collecting and importing come on top."""
WHOLE_SERVICE = ("tests/e2e", "tests/faults")
"""Start real services, kill them: never fast."""

seconds: defaultdict[str, float] = defaultdict(float)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out slow test files")
    parser.addoption("--record-durations", action="store_true", help="write tests/durations.json")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SLOW] = slow_files(_recorded(), BUDGET_S) if config.option.fast else set()


SLOW = pytest.StashKey[set[str]]()


def slow_files(recorded: dict[str, float], budget: float) -> set[str]:
    """The slowest files, so many that the others take at most ``budget`` seconds."""
    slow, left = set(recorded), budget
    for name, took in sorted(recorded.items(), key=lambda item: item[1]):
        left -= took
        if left < 0:
            break
        slow.remove(name)
    return slow


def _recorded() -> dict[str, float]:
    found: dict[str, float] = json.loads(DURATIONS.read_text(encoding="utf-8"))
    return found


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if config.option.fast and _name(collection_path) in WHOLE_SERVICE:
        return True
    return True if _name(collection_path) in config.stash[SLOW] else None


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:  # setup, call and teardown, fixtures of a file included
    seconds[_name(item.path)] += call.duration
    return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.option.record_durations:
        taken = {**_recorded(), **seconds} if DURATIONS.exists() else dict(seconds)
        there = {name: round(took, 1) for name, took in taken.items() if (ROOT / name).exists()}
        text = json.dumps(dict(sorted(there.items())), indent=1) + "\n"
        DURATIONS.write_text(text, encoding="utf-8")
