"""A study in several processes, which are forked from one that has imported everything."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.forks.context import forks
from support.played_ray import RAY_IN_THREADS

from jeep_core.commands.reproduce import Options, run
from jeep_core.errors import JeepError, WorkersLost
from jeep_core.executors.choice import ALONE, Choice
from jeep_core.executors.processes import Processes
from jeep_core.models.loading import load
from jeep_core.moments.cache import Moments
from jeep_core.monitor import NOTHING
from jeep_core.reproduce.runs import UNEDITED, Lab, Run
from jeep_core.reproduce.work import work_through
from jeep_core.suites import load_suite


@pytest.fixture(autouse=True)
def _forked() -> None:
    """The process that others are forked from is the one of all tests, which is there already."""
    forks()


def test_several_processes_find_the_same_figures(inputs: Options, tmp_path: Path) -> None:
    given = replace(inputs, only=("comparison", "sweep"))
    run(replace(given, executor=ALONE))
    alone = json.loads((tmp_path / "out" / "report.json").read_text())
    several = Choice(executor="processes", workers=2)
    run(replace(given, executor=several, out=tmp_path / "shared"))
    shared = json.loads((tmp_path / "shared" / "report.json").read_text())
    assert shared["experiments"] == alone["experiments"]
    machines = [(r["machine"]["executor"], r["machine"]["processes"]) for r in (alone, shared)]
    assert machines == [("here", 1), ("processes", 2)]
    run(replace(given, executor=several, out=tmp_path / "shared"))
    again = json.loads((tmp_path / "shared" / "report.json").read_text())
    assert again["kept_runs"] == again["runs"] > 2


def test_a_ray_cluster_finds_the_same_figures_and_the_report_says_who_did_the_runs(
    inputs: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(RAY_IN_THREADS)
    given = replace(inputs, only=("comparison",))
    run(replace(given, executor=ALONE))
    alone = json.loads((tmp_path / "out" / "report.json").read_text())
    cluster = Choice(executor="ray", workers=2, address="10.0.0.1:6379")
    run(replace(given, executor=cluster, out=tmp_path / "shared"))
    shared = json.loads((tmp_path / "shared" / "report.json").read_text())
    assert shared["experiments"] == alone["experiments"]
    assert shared["machine"]["executor"] == "ray"
    assert "2 actors of a Ray cluster" in (tmp_path / "shared" / "index.html").read_text()


def test_workers_are_told_whole_paths(
    inputs: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They need not work in the folder that the caller works in."""
    monkeypatch.chdir(tmp_path)
    lab, _ = lab_in(Path("work"), inputs)
    lab.hypernetworks, lab.moments.folder = Path("networks"), Path("moments")
    terms = lab.terms
    assert terms.folder.is_dir()
    told = (terms.folder, terms.hypernetworks, terms.moments.folder)
    assert told == tuple(tmp_path / name for name in ("work", "networks", "moments"))


def test_workers_that_do_not_share_the_folder_say_so(inputs: Options, tmp_path: Path) -> None:
    lab, _ = lab_in(tmp_path / "work", inputs)
    terms = replace(lab.terms, folder=tmp_path / "of another machine")
    with pytest.raises(JeepError, match=r"of another machine is not there on .*share"):
        terms.of(lab.base, NOTHING)
    assert not terms.folder.exists()


class Dying(Processes):
    """Loses the worker that begins a unit, so many times."""

    times = 0

    def _told(self, run: Any, link: Any, kind: str, *rest: Any) -> None:
        super()._told(run, link, kind, *rest)
        if kind == "begun" and self.times:
            self.times -= 1
            os.kill(link.process.pid, signal.SIGKILL)


def lab_in(folder: Path, given: Options) -> tuple[Lab, list[Run]]:
    suite = load_suite(given.suite)
    base = load(given.model, "cpu", "float32")
    lab = Lab(base, {"s": suite}, 4, Moments(base, []), [], folder)
    return lab, [Run("s", seed, UNEDITED, range(2)) for seed in (0, 1, 2)]


def test_a_killed_process_is_replaced_and_one_that_dies_again_and_again_reported(
    inputs: Options, tmp_path: Path
) -> None:
    lab, runs = lab_in(tmp_path / "here", inputs)
    expected = work_through(lab, runs, lambda *_: None)
    with Dying(2, niceness=0) as executor:
        lab, runs = lab_in(tmp_path / "killed", inputs)
        executor.times = 1
        told: list[tuple[int, int]] = []
        found = work_through(lab, runs, lambda _, done, total: told.append((done, total)), executor)
        assert found == expected
        assert told[-1] == (6, 6)
        assert lab.kept == 0
        assert work_through(lab, runs, lambda *_: None, executor) == expected
        assert lab.kept == 3
        lab, runs = lab_in(tmp_path / "lost", inputs)
        executor.times = 99
        with pytest.raises(WorkersLost, match="with fewer --workers it takes less"):
            work_through(lab, runs, lambda *_: None, executor)
