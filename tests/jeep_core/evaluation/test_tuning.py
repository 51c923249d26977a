"""The search for hyper-parameters: what is tried, what is kept, what is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from jeep_core.commands.tune import Options, run
from jeep_core.editors import alphaedit, hparams_class
from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.errors import JeepError
from jeep_core.evaluation.metrics import Summary
from jeep_core.evaluation.tuning import Tried, grid, start, target, tune, write_preset
from jeep_core.models.loading import load
from jeep_core.probe.defaults.kept import keep
from jeep_core.probe.defaults.rule import RULE
from jeep_core.spec.hparams import Preset, load_preset, merge, validate_hparams
from jeep_core.suites import load_counterfact

BEGIN = {"low": {"layers": [1], "clamp": 1.0, "moment_weight": 10}, "n_steps": 3}
GRID = {"low.clamp": [0.5, 1.0, 2.0], "low.moment_weight": [10, 30, 100]}


def summary(value: float) -> Summary:
    return Summary(value, value, value, value, value, value, value, 4)


@dataclass
class Plane:
    """In place of trials: a score with its maximum at γ 2 and λ 30."""

    cases: tuple[int, ...] = (0, 1, 2, 3)
    runs: list[tuple[float, float]] = field(default_factory=list)
    broken: tuple[float, ...] = ()
    together: list[int] = field(default_factory=list)

    @property
    def base(self) -> Any:
        @dataclass
        class Base:
            n_layers: int = 8

        return Base()

    def outcomes(self, editor: str, settings: list[MemitHParams]) -> Iterator[Summary | str]:
        self.together.append(len(settings))
        return (self._outcome(editor, hparams) for hparams in settings)

    def _outcome(self, editor: str, hparams: MemitHParams) -> Summary | str:
        assert (editor, hparams.n_steps) == ("memit", 3)
        clamp, weight = hparams.low.clamp, hparams.low.moment_weight
        self.runs.append((clamp, weight))
        if clamp in self.broken:
            return "layer 1: the second moment is singular"
        return summary(90 - 10 * abs(clamp - 2) - abs(weight - 30) / 10)


def search(plane: Plane, rounds: int = 2) -> tuple[Any, list[Tried]]:
    told: list[Tried] = []
    return tune(plane, "memit", BEGIN, GRID, rounds, told.append), told  # type: ignore[arg-type]


def test_the_best_setting_is_found_and_kept() -> None:
    plane = Plane()
    tuned, told = search(plane)
    assert tuned.hparams == {
        "low": {"layers": [1], "clamp": 2.0, "moment_weight": 30}, "n_steps": 3
    }  # fmt: skip
    assert tuned.summary == summary(90)
    assert len(plane.runs) == len(set(plane.runs)) == tuned.tried
    assert [tried.done for tried in told] == list(range(1, 14))
    assert {tried.total for tried in told} == {13}
    best = [tried.target for tried in told if tried.best]
    assert best == sorted(best)
    assert best[-1] == target(tuned.summary) == pytest.approx(90)
    assert plane.together == [1, 2, 2, 2], "choices of one value; none is tried again"
    assert BEGIN["low"] == {"layers": [1], "clamp": 1.0, "moment_weight": 10}


def test_a_setting_that_cannot_be_carried_out_is_passed_over() -> None:
    tuned, told = search(Plane(broken=(2.0,)))
    assert tuned.hparams["low"]["clamp"] == 1.0
    assert any("singular" in tried.problem for tried in told)
    with pytest.raises(JeepError, match=r"no setting of memit .*singular"):
        search(Plane(broken=(0.5, 1.0, 2.0)))


@pytest.mark.parametrize("n_layers", [4, 9, 12, 28, 32, 80])
def test_the_start_and_the_grid_fit_a_model_of_any_depth(n_layers: int) -> None:
    jeep = validate_hparams(JeepHParams, start("jeep", n_layers, 64), n_layers)
    assert (jeep.low.clamp, jeep.high.clamp) == (0.75, 0.25)
    memit = validate_hparams(MemitHParams, start("memit", n_layers, 64), n_layers)
    assert memit.low == memit.low.model_copy(update={"layers": jeep.low.layers})
    values = grid("jeep", n_layers, 64)
    assert set(grid("memit", n_layers, 64)) == {path for path in values if path.startswith("low")}
    for region in ("low", "high"):
        windows = values[f"{region}.layers"]
        assert len({tuple(window) for window in windows}) == len(windows) >= 1
        assert all(0 <= w[0] <= w[-1] <= n_layers - 2 for w in windows)
    assert values["low.moment_weight"][0] < 64 < values["low.moment_weight"][-1]


@pytest.mark.parametrize(
    "editor",
    ["memit", "pmet", "alphaedit", "rome", "ft-wd", "ultraedit", "locft", "crispedit"],
)
@pytest.mark.parametrize("n_layers", [4, 9, 28])
def test_every_setting_tried_is_valid(editor: str, n_layers: int) -> None:
    """From the start on, one change at a time; every path is one of the editor's own."""
    begin, cls = start(editor, n_layers, 64), hparams_class(editor)
    validate_hparams(cls, begin, n_layers)
    for path, choices in grid(editor, n_layers, 64).items():
        for value in choices:
            first, _, name = path.partition(".")
            change = {first: {name: value} if name else value}
            validate_hparams(cls, merge(begin, change), n_layers)


def test_editors_with_networks_are_not_tuned() -> None:
    with pytest.raises(JeepError, match="trained network"):
        grid("mend", 9, 64)


def test_a_path_may_name_a_field_of_the_editor_itself() -> None:
    tuned = tune(Plane(), "memit", BEGIN, {"n_steps": [3]}, 1)  # type: ignore[arg-type]
    assert tuned.hparams == BEGIN
    assert tuned.tried == 1


def test_the_start_lies_where_the_papers_layers_lie() -> None:
    gptj, llama = start("jeep", 28, 64), start("jeep", 32, 64)
    assert abs(gptj["low"]["layers"][-1] - 8) <= 1
    assert abs(gptj["high"]["layers"][-1] - 16) <= 1
    assert abs(llama["low"]["layers"][-1] - 10) <= 1


def test_a_preset_that_was_written_can_be_loaded(tmp_path: Path) -> None:
    preset = Preset("found", "memit", "/models/x", "a search: 10 settings", dict(BEGIN), "float16")
    write_preset(tmp_path / "found.yaml", preset)
    assert load_preset("found", tmp_path) == preset
    with pytest.raises(JeepError, match="exists already"):
        write_preset(tmp_path / "found.yaml", preset)
    with pytest.raises(JeepError, match="no preset is called auto"):
        write_preset(tmp_path / "auto.yaml", preset)


def options(out: Path, **changes: Any) -> Options:
    given = {"model": "atlas-gptj", "suite": "atlas-counterfact-validation", "editor": "memit"}
    small = {"cases": 2, "rounds": 1, "device": "cpu", "samples": 8000, "out": out}
    return Options(**(given | small | changes))


def test_the_command_writes_a_preset_with_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jeep_core.commands.tune.grid", lambda *_: {"low.clamp": [0.5]})
    suite = tmp_path / "mine.json"
    suite.write_text(json.dumps(_records(3)))
    out = tmp_path / "mine.yaml"
    steps = tmp_path / "own"
    steps.mkdir()
    (steps / "quick.yaml").write_text(
        "editor: memit\nmodel: atlas-gptj\norigin: hand\n"
        "hparams: {n_steps: 2, n_prefixes: 2, low: {layers: [1], clamp: 1, moment_weight: 3}}\n"
    )
    run(options(out, suite=str(suite), presets=steps))
    preset = load_preset("mine", tmp_path)
    assert (preset.editor, preset.model, preset.dtype) == ("memit", "atlas-gptj", "float32")
    assert preset.origin.startswith("jeep tune: 2 settings, 2 cases of mine.json (sha256 ")
    assert preset.hparams["n_steps"] == 2
    assert preset.hparams["low"]["layers"] == [1]
    shown = capsys.readouterr()
    assert "low.clamp 0.5" in shown.err
    assert preset.origin in shown.out.replace("\n", "")


def _records(count: int) -> list[dict[str, Any]]:
    cases = load_counterfact("atlas-counterfact-validation").cases[:count]
    return [
        {
            "requested_rewrite": {
                "subject": case.subject,
                "prompt": case.prompt,
                "target_new": {"str": case.target_new},
                "target_true": {"str": case.target_true},
            },
            "paraphrase_prompts": list(case.paraphrase_prompts),
            "neighborhood_prompts": list(case.neighborhood_prompts),
        }
        for case in cases
    ]


def test_what_cannot_work_is_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("jeep_core.commands.tune.load")
    (tmp_path / "text.json").write_text("{}{}")
    (tmp_path / "other.json").write_text('[{"subject": "x"}]')
    (tmp_path / "there.yaml").write_text("")
    out = tmp_path / "new.yaml"
    wrong = {
        "exists already": options(tmp_path / "there.yaml"),
        "NAME.yaml": options(tmp_path / "new.txt"),
        "is not a folder": options(tmp_path / "no" / "new.yaml"),
        "text.json is not a Multi-CounterFact file": options(
            out, suite=str(tmp_path / "text.json")
        ),
        "other.json is not": options(out, suite=str(tmp_path / "other.json")),
        "no editor 'memmit'": options(out, editor="memmit"),
    }
    for message, given in wrong.items():
        with pytest.raises(JeepError, match=message):
            run(given)
    assert not out.exists()


def test_automatic_layers_are_those_of_the_kept_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "jeep_core.commands.tune.grid", lambda *_: {"low.layers": [[4]], "low.clamp": [0.5]}
    )
    monkeypatch.delattr("jeep_core.commands.tune.probe")  # there is no need to run one
    region = {"layers": [2], "clamp": 1.0, "moment_weight": 5}
    base = load("atlas-gptj", device="cpu")
    proposed = {"learning_rate": 2.0, "low": region}
    keep(tmp_path / "probes", {"model_hash": base.model_hash, "rule": RULE, "hparams": proposed})
    out = tmp_path / "found.yaml"
    run(options(out, layers="auto", probes=tmp_path / "probes"))
    assert load_preset("found", tmp_path).hparams["low"]["layers"] == [2]
    shown = capsys.readouterr().err
    assert "low.clamp 0.5" in shown
    assert "low.layers" not in shown


def test_automatic_layers_are_refused_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manual = replace(alphaedit.record, automatic=None)
    monkeypatch.setattr(alphaedit, "record", manual)
    given = options(tmp_path / "x.yaml", layers="auto", editor="alphaedit")
    with pytest.raises(JeepError, match="alphaedit has no automatic hyper-parameters"):
        run(given)
