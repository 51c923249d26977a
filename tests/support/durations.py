"""How long tests take, and which of them a person runs while editing.

``tests/durations.json`` has the seconds of every file as of the last ``make test-durations``, and
its slow tests one by one.  ``--fast SECONDS`` runs the files with the least seconds per test, the
cheapest file of every room first, without their slow tests, as far as the seconds go.  A file
without a record is left out and named at the end, so that the time is kept.

With several processes the files with the most seconds begin, and all tests of whole services
stay in one process.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from support import ROOT

RECORD = ROOT / "tests" / "durations.json"
SLOW_S = 1.0
"""A test that takes longer is recorded by itself and is no part of the fast ones."""
WHOLE_SERVICES = (
    "tests/e2e",
    "tests/faults",
    "tests/service/api/test_serve.py",
    "tests/jeep_core/reproduce/test_processes.py",
)
"""These start services and other programs, which takes longer than the tests: they are never fast.

They share one service that runs, and one process that others are forked from (``support.forks``).
"""
MIRRORS = ("tests/jeep_core", "tests/service", "tests/tools")
"""Folders whose subfolders are rooms: the fast tests have a file of each."""


@dataclass(frozen=True)
class FileRecord:
    """One file's tests: their number, seconds of all, seconds of each slow one by name."""

    tests: int
    seconds: float
    slow: dict[str, float] = field(default_factory=dict)

    @property
    def fast_seconds(self) -> float:
        """The seconds without slow tests."""
        return max(0.0, self.seconds - sum(self.slow.values()))

    @property
    def rate(self) -> float:
        """Seconds per test, of those that are not slow."""
        return self.fast_seconds / max(1, self.tests - len(self.slow))


def load(path: Path = RECORD) -> dict[str, FileRecord]:
    """The records by file, relative to the repository's root."""
    found = json.loads(path.read_text()) if path.exists() else {}
    return {name: FileRecord(**record) for name, record in found.items()}


def save(records: Mapping[str, FileRecord], path: Path = RECORD) -> None:
    """Write records, one file a line."""
    lines = [f'"{name}": {json.dumps(asdict(records[name]))}' for name in sorted(records)]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def choose(records: Mapping[str, FileRecord], seconds: float) -> list[str]:
    """The files of the fast tests, cheapest first: one of every room, then as many as fit."""
    ranked = sorted(records, key=lambda name: (records[name].rate, name))
    ranked = [
        name
        for name in ranked
        if records[name].tests > len(records[name].slow) and not name.startswith(WHOLE_SERVICES)
    ]
    rooms: dict[str, str] = {}
    for name in ranked:
        if name.startswith(MIRRORS):
            rooms.setdefault(str(PurePosixPath(name).parent), name)
    chosen, left = [], seconds
    for name in [*rooms.values(), *(name for name in ranked if name not in rooms.values())]:
        if name in rooms.values() or records[name].fast_seconds <= left:
            chosen.append(name)
            left -= records[name].fast_seconds
    return chosen


def measured(reports: Iterable[tuple[str, str, float]]) -> dict[str, FileRecord]:
    """Records from node id, phase (setup, call, teardown) and seconds of every phase.

    Set-up counts for the file alone: where a slow test is left out, the next one does it.
    """
    tests: dict[str, set[str]] = defaultdict(set)
    seconds: dict[str, float] = defaultdict(float)
    slow: dict[str, dict[str, float]] = defaultdict(dict)
    for nodeid, phase, took in reports:
        name = file_of(nodeid)
        tests[name].add(nodeid)
        seconds[name] += took
        if phase == "call" and took > SLOW_S:
            slow[name][_name_of(nodeid)] = round(took, 1)
    return {
        name: FileRecord(len(tests[name]), round(seconds[name], 1), slow[name]) for name in tests
    }


def file_of(nodeid: str) -> str:
    """The path of a test's file, relative to the repository's root."""
    return nodeid.partition("::")[0]


def _name_of(nodeid: str) -> str:
    return nodeid.partition("::")[2]


def _waited() -> float:
    """Seconds that other programs have kept this process's main thread from running (Linux)."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


class Stopwatch:
    """Gives every report the ``seconds_alone`` that its phase takes if nothing else is running."""

    def pytest_runtest_logstart(self) -> None:
        self.since = _waited()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        waited = _waited()
        report.seconds_alone = max(0.0, call.duration - (waited - self.since))
        self.since = waited
        return report


class Recorder:
    """Notes what every test takes; writes the record when all have run, failed ones included."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, str, float]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        took: float = report.seconds_alone  # type: ignore[attr-defined]
        self.reports.append((report.nodeid, str(report.when), took))

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            return  # a file may have run in part
        kept = {name: one for name, one in load().items() if (ROOT / name).exists()}
        save(kept | measured(self.reports))


class Selection:
    """Leaves out files, and tests in the others, that the fast tests have no time for."""

    def __init__(self, seconds: float) -> None:
        self.records = load()
        self.chosen = set(choose(self.records, seconds))

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        if collection_path.is_dir() or not collection_path.name.startswith("test_"):
            return None
        name = collection_path.relative_to(ROOT).as_posix()
        return None if name in self.chosen else True

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        slow = [i for i in items if _name_of(i.nodeid) in self.records[file_of(i.nodeid)].slow]
        config.hook.pytest_deselected(items=slow)
        left_out = set(slow)
        items[:] = [item for item in items if item not in left_out]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
        unknown = sorted(name for name in files - self.records.keys() if "/gpu/" not in name)
        if unknown:
            line = f"left out, without a record of seconds (make test-durations): {unknown[0]}"
            terminalreporter.write_line(
                line + (f" and {len(unknown) - 1} more" * (len(unknown) > 1))
            )


class Parallel:
    """Distributes files over processes (pytest-xdist)."""

    def __init__(self, process: str = "") -> None:
        self.backwards = process.removeprefix("gw") in tuple("13579")

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Every other process begins with the last files: one takes what another has compiled."""
        report = yield
        if self.backwards and isinstance(collector, pytest.Directory | pytest.Session):
            report.result.reverse()
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None]:
        items.sort(key=lambda item: file_of(item.nodeid))  # in all processes the same
        yield
        records = load()
        unknown = FileRecord(0, float("inf"))

        def order(item: pytest.Item) -> tuple[bool, float, str]:
            name = file_of(item.nodeid)
            record = records.get(name, unknown)
            return not name.startswith(WHOLE_SERVICES), -record.seconds, name

        items.sort(key=order)

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        from xdist.scheduler import LoadScopeScheduling

        config.option.loadscopereorder = False  # the order is that of the seconds

        class ByFile(LoadScopeScheduling):
            def _split_scope(self, nodeid: str) -> str:
                return "whole services" if nodeid.startswith(WHOLE_SERVICES) else file_of(nodeid)

        return ByFile(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("durations")
    group.addoption(
        "--fast", type=float, metavar="SECONDS", help="run the cheapest tests, this long at most"
    )
    group.addoption(
        "--record-durations", action="store_true", help=f"write {RECORD.relative_to(ROOT)}"
    )


def pytest_configure(config: pytest.Config) -> None:
    in_worker = hasattr(config, "workerinput")
    if config.getoption("--fast") is not None:
        config.pluginmanager.register(Selection(config.getoption("--fast")), "fast tests")
    if config.getoption("--record-durations"):
        config.pluginmanager.register(Stopwatch(), "stopwatch")
        if not in_worker:
            config.pluginmanager.register(Recorder(), "recorder of durations")
    if in_worker or config.getoption("numprocesses", None):
        process = config.workerinput["workerid"] if in_worker else ""
        config.pluginmanager.register(Parallel(process), "files over processes")
