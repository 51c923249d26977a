"""A study in several processes, which are forked from one that has imported everything."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from support.forks.context import forks
from support.library.tiny import random_model

from jeep_core.commands.reproduce import Options, run
from jeep_core.errors import JeepError
from jeep_core.reproduce.runs import UNEDITED, Lab, Run
from jeep_core.reproduce.work import work_through


@pytest.fixture(autouse=True)
def _forked() -> None:
    """The process that others are forked from is the one of all tests, which is there already."""
    forks()


def test_several_processes_find_the_same_figures(inputs: Options, tmp_path: Path) -> None:
    given = replace(inputs, only=("comparison", "sweep"))
    run(replace(given, jobs=1))
    alone = json.loads((tmp_path / "out" / "report.json").read_text())
    run(replace(given, jobs=2, out=tmp_path / "shared"))
    shared = json.loads((tmp_path / "shared" / "report.json").read_text())
    assert shared["experiments"] == alone["experiments"]
    assert [r["machine"]["processes"] for r in (alone, shared)] == [1, 2]
    run(replace(given, jobs=2, out=tmp_path / "shared"))
    again = json.loads((tmp_path / "shared" / "report.json").read_text())
    assert again["kept_runs"] == again["runs"] > 2


def _killed() -> Lab:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_killed_process_is_reported() -> None:
    lab = Lab(
        random_model("gptj"), {}, 4, moments=cast(Any, None), prefixes=[], folder=Path("unused")
    )
    runs = [Run("s", 0, UNEDITED, range(2))]
    with pytest.raises(JeepError, match="with fewer --jobs it takes less"):
        work_through(lab, runs, lambda *_: None, 2, _killed)
