"""``jeep probe``: what it writes, what it refuses, and what its plots look like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jeep_core import atlas
from jeep_core.commands.probe import run
from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.errors import JeepError
from jeep_core.probe import plots
from jeep_core.probe.defaults.kept import kept
from jeep_core.reports import style
from jeep_core.spec.hparams import validate_hparams

NAMES = ("answers", "answers-no-norm", "branches", "patching", "word-sets")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe of the bundled GPT-J on a few prompts."""
    out = tmp_path_factory.mktemp("probe")
    run(model="atlas-gptj", limit=24, out=out / "out", device="cpu", keep=out / "kept")
    return out


@pytest.fixture(scope="module")
def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "probe.json").read_text())
    return found


def test_figures_and_plots_are_written(folder: Path, record: dict[str, Any]) -> None:
    files = {path.name for path in (folder / "out").iterdir()}
    assert files == {"probe.json", *(f"{n}.{end}" for n in NAMES for end in ("png", "svg"))}
    assert record["model"] == "atlas-gptj"
    assert record["suite"] == "atlas-counterfact-validation"
    assert record["prompts"]["count"] + sum(record["prompts"]["dropped"].values()) == 24
    validate_hparams(JeepHParams, record["hparams"], record["n_layers"])
    assert kept(folder / "kept", record["model_hash"]) == record


def test_every_list_has_a_value_per_layer(record: dict[str, Any]) -> None:
    def lists(value: Any) -> list[list[float]]:
        if isinstance(value, dict):
            return [found for key, v in value.items() if key != "embedding" for found in lists(v)]
        return [value] if isinstance(value, list) else []

    parts = {name: record[name] for name in ("answers", "branches", "patching", "word_sets")}
    assert {len(found) for found in lists(parts)} == {9}


def test_a_known_answer_ends_on_top(record: dict[str, Any]) -> None:
    output = record["answers"]["final_norm"]["prediction"]["output"]
    assert output["original"]["probability"]["mean"][-1] > 0.99
    assert output["original"]["rank"]["mean"][-1] == 0
    assert output["target"]["rank"]["mean"][-1] > 10
    assert record["patching"]["exchange"]["effect"]["mean"][-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_plots_texts_lie_beside_its_data_and_inside_the_picture(
    record: dict[str, Any], name: str
) -> None:
    makers = {
        "answers": lambda: plots.answers(record, "final_norm"),
        "answers-no-norm": lambda: plots.answers(record, "no_norm"),
        "branches": lambda: plots.branches(record),
        "patching": lambda: plots.patching(record),
        "word-sets": lambda: plots.word_sets(record),
    }
    with style.drawing():
        figure: Figure = makers[name]()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        whole = figure.bbox
        [legend] = figure.legends
        box = legend.get_window_extent(renderer)
        assert box.x0 >= 0
        assert box.x1 <= whole.x1
        for axes in figure.axes:
            assert axes.get_ylabel()
            assert not box.overlaps(axes.get_window_extent(renderer))
            assert axes.get_tightbbox(renderer).x0 >= -1
    assert figure.get_figwidth() == style.COLUMN


def test_the_same_record_gives_the_same_pictures(record: dict[str, Any], tmp_path: Path) -> None:
    with style.drawing():
        pairs = [style.save(plots.branches(record), tmp_path, name) for name in "ab"]
    for one, other in zip(*pairs, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_without_a_corpus_or_a_proposal_the_rest_is_still_drawn(
    record: dict[str, Any], tmp_path: Path
) -> None:
    bare = {**record, "word_sets": None, "proposal": None, "hparams": None}
    drawn = plots.draw(bare, tmp_path)
    assert {path.stem for path in drawn} == set(NAMES) - {"word-sets"}


def test_what_cannot_work_is_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("jeep_core.commands.probe.load")
    (tmp_path / "bad.json").write_text("{}{}")
    (tmp_path / "empty.txt").write_text("\n")
    suite = str(atlas.SUITES["atlas-counterfact-validation"])
    wrong: dict[str, dict[str, Any]] = {
        "line 1": {"suite": str(tmp_path / "bad.json")},
        "has no documents": {"suite": suite, "corpus": tmp_path / "empty.txt"},
        "cannot be read": {"suite": suite, "corpus": tmp_path / "none.txt"},
    }
    for message, given in wrong.items():
        with pytest.raises(JeepError, match=message):
            run(**{"model": "m", "out": tmp_path / "out", **given})
    assert not (tmp_path / "out").exists()
