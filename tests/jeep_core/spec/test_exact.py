"""``exact``: what it takes out of presets, what it takes instead, and what it cannot be beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jeep_core.editing import resolve_hparams
from jeep_core.editors import hparams_class
from jeep_core.errors import InvalidHParams
from jeep_core.sizing.architecture import architecture_of
from jeep_core.sizing.demand import editing_of
from jeep_core.sizing.shapes import SHAPES
from jeep_core.spec.hparams import OptimisedEditorHParams, validate_hparams

EXACT = {"exact": True}
OPTIMISING = ("jeep", "memit", "pmet", "rome", "alphaedit")
FEW_LAYERS = {
    "jeep": {
        "low": {"layers": [0, 1], "clamp": 1, "moment_weight": 10},
        "high": {"layers": [2], "clamp": 1, "moment_weight": 10},
    },
    "memit": {"low": {"layers": [0, 1], "clamp": 1, "moment_weight": 10}},
    "pmet": {"low": {"layers": [0, 1], "clamp": 1, "moment_weight": 10}},
    "rome": {"layer": 1},
    "alphaedit": {"low": {"layers": [0], "clamp": 1, "moment_weight": 10, "null_space": 0.02}},
}


def resolved(
    model: str, editor: str, preset: str | None = None, folder: Path | None = None, **changes: Any
) -> Any:
    return resolve_hparams(model, editor, preset, changes, 30, folder)


def refused(editor: str, **changes: Any) -> dict[str, str]:
    values = {**FEW_LAYERS.get(editor, {}), **EXACT, **changes}
    with pytest.raises(InvalidHParams) as caught:
        validate_hparams(hparams_class(editor), values, 9)
    return {problem.pointer: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("editor", ["jeep", "memit"])
@pytest.mark.parametrize("model", ["atlas-gptj", "atlas-llama"])
def test_the_preset_of_the_paper_is_taken_where_a_model_has_one(model: str, editor: str) -> None:
    found = resolved(model, editor, **EXACT)
    paper = resolved(model, editor, f"{editor}-{model}-paper")
    assert found == paper.model_copy(update=EXACT)
    assert found != resolved(model, editor).model_copy(update=EXACT)


def test_a_preset_that_is_named_keeps_its_rates_and_layers() -> None:
    quick = resolved("atlas-gptj", "jeep", "jeep-atlas-gptj")
    found = resolved("atlas-gptj", "jeep", "jeep-atlas-gptj", **EXACT)
    assert (quick.optimizer, quick.n_prefixes) == ("newton", 3)
    published = {"exact": True, "optimizer": "adam", "n_prefixes": 6}
    assert found == quick.model_copy(update=published)


@pytest.mark.parametrize("editor", ["jeep", "memit", "alphaedit"])
def test_a_model_without_a_preset_of_the_paper_has_its_own_without_what_is_quick(
    editor: str,
) -> None:
    quick = resolved("smollm2-135m", editor)
    assert (quick.optimizer, quick.compute_dtype) == ("newton", "bfloat16")
    found = resolved("smollm2-135m", editor, **EXACT)
    published = {"exact": True, "optimizer": "adam", "n_prefixes": 6, "compute_dtype": "model"}
    assert found == quick.model_copy(update=published)


def test_romes_prefixes_are_those_of_its_paper() -> None:
    assert resolved("atlas-gptj", "rome").n_prefixes == 6
    assert resolved("atlas-gptj", "rome", **EXACT).n_prefixes == 21


def test_more_prefixes_than_the_papers_stay(tmp_path: Path) -> None:
    (tmp_path / "many.yaml").write_text(
        "editor: memit\nmodel: mine\norigin: here\nhparams:\n  n_prefixes: 9\n"
        "  early_prefixes: 2\n  low: {layers: [1], clamp: 1, moment_weight: 10}\n",
        encoding="utf-8",
    )
    found = resolved("mine", "memit", folder=tmp_path, **EXACT)
    assert (found.n_prefixes, found.early_prefixes) == (9, None)
    assert resolved("mine", "memit", folder=tmp_path, n_prefixes=7, **EXACT).n_prefixes == 7


def test_without_it_nothing_is_taken_out_of_a_preset() -> None:
    plain, said = (resolved("atlas-gptj", "jeep", **more) for more in ({}, {"exact": False}))
    assert plain == said
    assert plain.optimizer == "newton"


@pytest.mark.parametrize(
    ("name", "value"),
    [("early_prefixes", 2), ("compute_dtype", "bfloat16"), ("n_prefixes", 2)],
)
@pytest.mark.parametrize("editor", OPTIMISING)
def test_a_hyper_parameter_that_contradicts_is_named(editor: str, name: str, value: Any) -> None:
    [(pointer, message)] = refused(editor, **{name: value}).items()
    assert pointer == f"/hparams/{name}"
    assert message.endswith(f": leave {name} out, or leave exact out")


def test_every_contradiction_is_named_at_once() -> None:
    found = refused("jeep", optimizer="newton", early_prefixes=1, n_prefixes=1)
    assert set(found) == {f"/hparams/{n}" for n in ("optimizer", "early_prefixes", "n_prefixes")}


@pytest.mark.parametrize("value", [1, "true", None])
def test_it_is_true_or_false(value: Any) -> None:
    assert set(refused("memit", exact=value)) == {"/hparams/exact"}


@pytest.mark.parametrize("editor", ["ultraedit", "locft", "crispedit", "ft-wd", "mend", "malmen"])
def test_an_editor_without_a_search_of_values_says_so(editor: str) -> None:
    assert not issubclass(hparams_class(editor), OptimisedEditorHParams)
    [(pointer, message)] = refused(editor).items()
    assert pointer == "/hparams/exact"
    assert "optimises no values" in message
    assert "leave it out" in message


@pytest.mark.parametrize("editor", ["ultraedit", "mend"])
def test_so_it_does_beside_a_preset(editor: str) -> None:
    with pytest.raises(InvalidHParams) as caught:
        resolve_hparams("atlas-gptj", editor, None, EXACT, 9)
    assert [(p.pointer, p.code) for p in caught.value.problems] == [
        ("/hparams/exact", "no_value_search")
    ]


def test_a_plan_counts_facts_one_at_a_time_and_in_the_models_own_type() -> None:
    arch = architecture_of(SHAPES["smollm2-135m"], "here")
    quick = editing_of(arch, "unknown", "jeep", dtype="float32")
    found = editing_of(arch, "unknown", "jeep", changes=EXACT, dtype="float32")
    assert (quick.together, quick.bfloat16) == (True, True)
    assert (found.together, found.bfloat16, found.rows) == (False, False, 6)
