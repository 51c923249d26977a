"""Benchmarks of editors: times of edits alone, rows of every size, yardsticks of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import jeep_core
from bench.editors import (
    contexts,
    lasting,
    lasting_report,
    portability,
    proposal,
    quality,
    real,
    sequences,
)
from jeep_core.editing import resolve_hparams
from jeep_core.evaluation.metrics import Summary

HPARAMS = SimpleNamespace(prefix_count=2, moment_layers=[1], model_dump=lambda **_: {})


class Played:
    """Trials and their second moments, which note what is asked of them."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.moments, self.prefixes = self, ["", "He said that"]
        self.base, self.cases = SimpleNamespace(name="m", n_layers=2, mlp_size=4), [None] * 2

    def ensure(self, layers: list[int]) -> None:
        self.told.append(f"moments {layers}")

    def edit(self, *_: object) -> tuple[None, None]:
        self.told.append("edit")
        return None, None


def test_second_moments_are_there_before_an_edit_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    played: Any = Played()
    monkeypatch.setattr(contexts, "hparams_for", lambda *_, **__: HPARAMS)
    monkeypatch.setattr(contexts, "ModelView", lambda _: None)
    monkeypatch.setattr(contexts, "asked", lambda *_: {})
    contexts.measure(played, "jeep", {}, {}, scores=False)
    assert played.told == ["moments [1]", "edit"] * 3


@pytest.mark.parametrize(("bench", "timed"), [(real, "measure"), (sequences, "follow")])
def test_a_bench_takes_second_moments_before_it_measures(
    bench: Any, timed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played()

    def measured(*_: object) -> dict[str, Any]:
        played.told.append(timed)
        return {"rows": [], "perplexity": None, "abilities": None}

    for name, found in {
        "by_default": (played, "auto", {}), "hparams_for": HPARAMS, "has_template": False,
        "line": "", "row": "", "rows_of": [], "load_suite": SimpleNamespace(cases=[None]),
        "write_freely": {}, "neighbors_of": [], "ModelView": None, "unedited": {}, "Line": None,
        "batches_of": [[None]], "texts_of": [],
    }.items():  # fmt: skip
        monkeypatch.setattr(bench, name, lambda *_, found=found, **__: found, raising=False)
    monkeypatch.setattr(jeep_core, "load", lambda _: played.base)
    monkeypatch.setattr(bench, timed, measured)
    command = ["bench", "MODEL", "--suite", "s", "--editors", "jeep", "--texts", "texts.json"]
    if bench is real:
        command = [*command[:-2], "--sizes", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / "out.json")])
    bench.main()
    assert played.told == ["moments [1]", timed]


def test_what_an_edit_needs_is_no_part_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def takes(seconds: float, found: object) -> Any:
        def work(*_: object) -> object:
            clock[0] += seconds
            return found

        return work

    case: Any = SimpleNamespace(portability=("q",))
    trials = SimpleNamespace(edit=takes(4.0, (None, None)))
    for name, found in {
        "load_suite": SimpleNamespace(name="s", style=None, cases=[case]), "rows_of": [],
        "fitting": ([case], {}, {}), "by_default": (trials, "auto", {}), "write_freely": {},
        "neighbors_of": [], "ModelView": None, "hparams_for": HPARAMS, "table": [], "gains": [],
        "Setting": None, "summarise_cases": {}, "protocols": {},
    }.items():  # fmt: skip
        monkeypatch.setattr(portability, name, lambda *_, found=found, **__: found)
    monkeypatch.setattr(portability, "prepare", takes(100.0, None))
    monkeypatch.setattr(portability, "time", SimpleNamespace(process_time=lambda: clock[0]))
    monkeypatch.setattr(jeep_core, "load", lambda _: Played().base)
    out = tmp_path / "out.json"
    command = ["portability", "MODEL", "--suite", "s", "--editors", "jeep", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    portability.main()
    assert json.loads(out.read_text())["editors"]["jeep"]["seconds_a_fact"] == 4.0


def test_a_model_without_a_template_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SimpleNamespace(name="plain", chat=None)
    monkeypatch.setattr(jeep_core, "load", lambda _: model)
    monkeypatch.setattr(sys, "argv", ["contexts", "plain", "--suite", "atlas-counterfact"])
    with pytest.raises(SystemExit, match="plain has no chat template"):
        contexts.main()


class Grown:
    """A line of versions that is not edited."""

    view = None

    def __init__(self, *_: object) -> None:
        pass

    def edit(self, *_: object) -> dict[str, Any]:
        return {}

    def moved(self) -> float:
        return 0.0


def test_the_last_batch_is_measured_whole_whatever_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = {"efficacy": 100.0, "greedy": 100.0, "generalization": 100.0, "greedy_locality": 1.0}

    def measured(view: object, cases: object, neighbors: bool = False) -> dict[str, float]:
        return {**scores, "locality": 50.0} if neighbors else scores

    monkeypatch.setattr(lasting, "Lineage", Grown)
    monkeypatch.setattr(lasting, "measured", measured)
    monkeypatch.setattr(lasting, "perplexity", lambda *_: 2.0)
    course: Any = SimpleNamespace(batches=[[None]] * 3, lines=[])
    unused: Any = None
    records = lasting.follow(unused, unused, course, "jeep", unused, every=2)
    told = ["perplexity" in one for one in records]
    assert told == [True, True, True, True]
    run = {"model": "m", "label": "jeep", "batches": 3, "size": 1, "preserve": 1, "draw": 0}
    found = {**run, "editor": "jeep", "records": records}
    assert "perplexity x1.000" in lasting.line(found)
    assert "| 50.0 |" in lasting_report.markdown([found])


def test_a_table_is_printed_where_every_editor_was_left_out() -> None:
    names = ("efficacy", "generalization", "locality", "score", "greedy")
    unedited = dict.fromkeys((*names, "greedy_generalization", "greedy_locality"), 1.0)
    table = quality.markdown({"model": "m", "unedited": unedited, "editors": {}})
    assert "| 0 | unedited | 1.0 |" in table


def test_layers_by_hand_are_not_the_proposed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    summary = Summary(50, 50, 50, 50, 50, 50, 50, cases=64)
    ran: list[Any] = []

    class Trials:
        def __init__(self, *_: object) -> None:
            pass

        def run(self, editor: str, hparams: Any, draw: range) -> Summary:
            ran.append(hparams)
            return summary

        def values(self, *_: object) -> None:
            return None

    monkeypatch.setattr(proposal, "Trials", Trials)
    monkeypatch.setattr(proposal, "Moments", lambda *_: None)
    monkeypatch.setattr(proposal, "sample_prefixes", lambda *_: [])
    monkeypatch.setattr(proposal, "default_probe", lambda _: {})
    shipped = resolve_hparams("atlas-gptj", "jeep", None, {}, 9, shape=(9, 192))
    monkeypatch.setattr(proposal, "hparams_for", lambda *given: shipped)
    report = proposal.measure("atlas-gptj", ["hand", "auto"], 5)
    # the shipped preset is what the probe proposes
    by_hand, proposed = ran[0], ran[-1]
    assert (list(by_hand.high.layers), list(proposed.high.layers)) == ([5, 6], [7])
    assert list(report) == ["model", "settings", "auto_minus_hand"]


@pytest.mark.parametrize(("paper", "layers"), [(True, [5, 6]), (False, [7])])
def test_the_presets_of_the_documented_figures_can_be_asked_for(
    paper: bool, layers: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/figures/lasting.json and quality.json have the ``-paper`` presets."""
    followed: list[Any] = []

    def follow(*given: Any) -> None:
        followed.append(given[4])
        raise KeyboardInterrupt

    monkeypatch.setattr(lasting, "follow", follow)
    option = ["--paper"] if paper else []
    monkeypatch.setattr(
        sys, "argv", ["lasting", "--models", "atlas-gptj", "--editors", "jeep", *option]
    )
    with pytest.raises(KeyboardInterrupt):
        lasting.main()
    model: Any = SimpleNamespace(name="atlas-gptj", shape=(9, 192), n_layers=9)
    preset = quality.of_paper(model, "jeep") if paper else None

    def values(editor: str, hparams: Any) -> None:
        followed.append(hparams)
        raise KeyboardInterrupt

    played: Any = SimpleNamespace(base=model, values=values)
    with pytest.raises(KeyboardInterrupt):
        quality.measure_editor(played, "jeep", [1], preset)
    assert [list(one.high.layers) for one in followed] == [layers, layers]
    assert quality.of_paper(model, "ft-wd") is None
