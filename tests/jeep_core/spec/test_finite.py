"""Figures that are not finite end the work where they arise, by name; nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from support import TINY_GPTJ
from support.library import tiny

from jeep_core import editing
from jeep_core.decoding.batch import Batch
from jeep_core.decoding.generation import Sampling, checked, generate, score, score_texts
from jeep_core.decoding.rows import Row
from jeep_core.decoding.sampling import choose
from jeep_core.decoding.scoring import Asked, read
from jeep_core.editing import edit
from jeep_core.editors import hparams_class
from jeep_core.editors.base import EditContext, EditorOutcome, LayerUpdate
from jeep_core.errors import JeepError, NumericalError, UnsupportedModel
from jeep_core.models.delta import Update, WeightDelta
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.moments.factors import MomentFactor
from jeep_core.probe.prompts import prepare
from jeep_core.probe.readings import read as read_states
from jeep_core.spec.facts import Fact
from jeep_core.spec.finite import all_finite, check_record, json_text, not_finite
from jeep_core.spec.hparams import OptimisedEditorHParams
from jeep_core.values.prefixes import sample_prefixes

FACT = Fact("Paris", "{} is a city in the country of", "Peru")
WEIGHT = "transformer.h.1.mlp.fc_out.weight"
WORDS = "transformer.wte.weight"
GOLDEN = TINY_GPTJ


def with_a_nan(base: LoadedModel, name: str = WEIGHT) -> ModelView:
    """A version with one weight that is NaN."""
    weight = base.model.get_parameter(name).clone()
    weight[0, 0] = nan
    return ModelView(base, {name: weight})


def with_a_broken_word(base: LoadedModel, word: str, but: str) -> ModelView:
    """A version in which a token of ``word`` that ``but`` does not have is NaN."""
    encode = base.tokenizer.encode
    token = next(i for i in encode(word).ids if i not in encode(but).ids)
    words = base.model.get_parameter(WORDS).clone()
    words[token] = nan
    return ModelView(base, {WORDS: words})


# ---------------------------------------------------------------- finding them


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_one_value_that_is_not_finite_is_found(dtype: torch.dtype) -> None:
    tensor = torch.linspace(-3e4, 3e4, 77, dtype=dtype).view(7, 11)
    assert all_finite(tensor)
    for bad in (nan, inf, -inf):
        for place in (0, 38, 76):
            broken = tensor.clone()
            broken.view(-1)[place] = bad
            assert not all_finite(broken)
            assert not all_finite(broken.T)


def test_tensors_of_integers_count_as_finite() -> None:
    assert all_finite(torch.zeros(0, 3))
    assert all_finite(torch.tensor([True, False]))
    assert all_finite(torch.tensor([2**62]))


class Inner(BaseModel):
    figure: float
    more: dict[str, Any] = {}


class Outer(BaseModel):
    inner: list[Inner]


def test_a_figure_of_a_record_is_named_by_its_place() -> None:
    whole = Outer(inner=[Inner(figure=1.0), Inner(figure=2.0, more={"a": (1, None, "nan")})])
    assert not_finite(whole) is None
    check_record(whole, "the result")
    whole.inner[1].more["a"] = (1, inf)
    assert not_finite(whole) == "/inner/1/more/a/1"
    whole.inner[0].figure = nan
    with pytest.raises(NumericalError, match=r"the result: the figure /inner/0/figure is not"):
        check_record(whole, "the result")


def test_json_with_nan_or_infinity_is_refused() -> None:
    assert json.loads(json_text({"a": [1.5, "NaN", None]}, "it")) == {"a": [1.5, "NaN", None]}
    with pytest.raises(NumericalError, match=r"^it: the figure /a/0 is not finite"):
        json_text({"a": [nan]}, "it")


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_a_model_with_such_a_weight_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    base = load(str(GOLDEN), device="cpu", dtype="float32")
    base.model.get_parameter(WEIGHT)[3, 1] = bad
    base.model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (GOLDEN / name).exists():
            (tmp_path / name).write_bytes((GOLDEN / name).read_bytes())
    with pytest.raises(UnsupportedModel, match=rf"{WEIGHT} are not finite .* in float32"):
        load(str(tmp_path), device="cpu", dtype="float32")


def test_weights_that_a_dtype_cannot_hold_are_refused_in_it_only(tmp_path: Path) -> None:
    base = load(str(GOLDEN), device="cpu", dtype="float32")
    base.model.get_parameter(WEIGHT)[3, 1] = 1e5
    base.model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (GOLDEN / name).exists():
            (tmp_path / name).write_bytes((GOLDEN / name).read_bytes())
    assert load(str(tmp_path), device="cpu", dtype="bfloat16").n_layers == base.n_layers
    with pytest.raises(UnsupportedModel, match=rf"{WEIGHT} are not finite .* in float16"):
        load(str(tmp_path), device="cpu", dtype="float16")


def test_an_update_that_is_not_finite_changes_nothing(gptj: LoadedModel) -> None:
    view, weight = ModelView(gptj), gptj.model.get_parameter(WEIGHT)
    bad = torch.zeros(weight.shape)
    bad[2, 2] = nan
    with pytest.raises(NumericalError, match=rf"^{WEIGHT}: the update of its weights is not"):
        view.update(WEIGHT, Update(dense=bad))
    assert view.replaced == {}
    assert view.history == {}


def test_a_sum_that_the_weights_cannot_hold_changes_nothing() -> None:
    """Each update is a number, in float16 too; together they are more than that holds."""
    view = ModelView(tiny.random_model("gptj", torch.float16))
    shape = view.parameter(WEIGHT).shape
    half = Update(dense=torch.full(shape, 4e4))
    view.update(WEIGHT, half)
    before, history = view.parameter(WEIGHT).clone(), list(view.history[WEIGHT])
    with pytest.raises(NumericalError, match=r"edited weights in torch.float16 is not finite"):
        view.update(WEIGHT, half)
    assert torch.equal(view.parameter(WEIGHT), before)
    assert view.history[WEIGHT] == history


# ---------------------------------------------------------------- editors


@dataclass
class Made:
    """An editor, as a plugin may be one, that hands over this."""

    outcome: EditorOutcome

    def run(self, context: EditContext, hparams: Any) -> EditorOutcome:
        return self.outcome


GOOD = LayerUpdate(WEIGHT, 1, "mlp", 0.5)
OUTCOMES: dict[str, tuple[EditorOutcome, str]] = {
    "a factor": (
        EditorOutcome(
            WeightDelta({WEIGHT: Update(torch.full((32, 1), nan), torch.ones(128, 1))}),
            layers=[GOOD],
        ),
        rf"^{WEIGHT}: the update",
    ),
    "a dense update": (
        EditorOutcome(WeightDelta({WEIGHT: Update(dense=torch.full((32, 128), inf))})),
        rf"^{WEIGHT}: the update",
    ),
    "a key": (
        EditorOutcome(keys={("low", 1): torch.full((1, 128), nan)}),
        r"^layer 1: a key of the region low is not finite",
    ),
    "a figure": (
        EditorOutcome(layers=[GOOD, LayerUpdate(WEIGHT, 7, "mlp", 0.5, residual_after=nan)]),
        r"^layer 7: residual_after is not finite",
    ),
    "a norm": (EditorOutcome(layers=[LayerUpdate(WEIGHT, 7, "mlp", inf)]), "^layer 7: relative"),
}


@pytest.mark.parametrize("kind", OUTCOMES)
def test_the_delta_of_every_editor_is_checked(
    gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    outcome, message = OUTCOMES[kind]
    monkeypatch.setattr(editing, "create", lambda name: Made(outcome))
    hparams = {"layer": 1}
    with pytest.raises(NumericalError, match=message):
        edit(gptj, [FACT], "ft-wd", hparams=hparams, prefixes=[""])


@pytest.mark.parametrize(
    ("dtype", "rate"),
    [
        (torch.float32, 1e30),
        (torch.float32, 1e300),
        (torch.float16, 1e5),
        (torch.bfloat16, 1e30),
    ],
)
def test_a_rate_that_is_far_too_large_is_reported(dtype: torch.dtype, rate: float) -> None:
    hparams = {"layer": 1, "learning_rate": rate, "n_steps": 3, "stop_loss": 1e-9}
    with pytest.raises(
        NumericalError, match=r"(layer 1|h\.1\.).* (not finite|beyond).*smaller learn"
    ):
        edit(tiny.random_model("gptj", dtype), [FACT], "ft-wd", hparams=hparams, prefixes=[""])


@pytest.mark.parametrize(
    "editor",
    ["memit", "pmet", "alphaedit", "jeep", "rome", "ft-wd", "ultraedit", "locft", "crispedit"],
)
def test_no_editor_edits_a_version_that_is_not_finite(gptj: LoadedModel, editor: str) -> None:
    region = {"layers": [1], "clamp": 1.0, "moment_weight": 5}
    given: dict[str, dict[str, Any]] = {
        "alphaedit": {"low": {**region, "null_space": 1e9}},
        "jeep": {"low": region, "high": {**region, "layers": [2]}},
        "rome": {"layer": 1, "clamp": 1.0},
        "ft-wd": {"layer": 1, "n_steps": 2},
        "ultraedit": {"layers": [1]},
        "locft": {"layers": [1], "n_passes": 2},
        "crispedit": {"layers": [1], "n_passes": 2},
    }
    hparams = given.get(editor, {"low": region})
    if issubclass(hparams_class(editor), OptimisedEditorHParams):
        hparams = {**hparams, "n_steps": 2, "n_prefixes": 1}
    moments = Moments(gptj, tiny.TEXTS)
    view = with_a_nan(gptj, "transformer.h.0.mlp.fc_out.weight")
    with pytest.raises(NumericalError, match=r"layer \d.* not finite"):
        edit(view, [FACT], editor, hparams=hparams, prefixes=[""], moments=moments)


# ---------------------------------------------------------------- second moments


def test_a_sum_of_keys_that_is_not_finite_is_not_kept(gptj: LoadedModel, tmp_path: Path) -> None:
    base = tiny.random_model("gptj")
    base.model.get_parameter("transformer.h.0.mlp.fc_out.weight")[0, 0] = nan
    moments = Moments(base, tiny.TEXTS, folder=tmp_path)
    with pytest.raises(NumericalError, match=r"^layer 1: the second moment of its keys is not"):
        moments.ensure([1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("use", [lambda f: f.lower, lambda f: f.null_basis(0.1)])
def test_a_kept_moment_that_is_not_finite_is_named(use: Callable[[MomentFactor], Any]) -> None:
    moment = torch.eye(3)
    moment[1, 1] = nan
    with pytest.raises(NumericalError, match=r"^layer 17: the second moment .*base/moments"):
        use(MomentFactor(moment, "layer 17"))


# ---------------------------------------------------------------- answers


def test_no_token_is_chosen_from_logits_that_are_not_finite() -> None:
    from random import Random

    logits = torch.tensor([[0.0, 1.0, 2.0]] * 4)
    logits[1, 2], logits[3, 0] = nan, inf
    for temperature in (0.0, 1.0):
        randoms = [Random(i) for i in range(4)]
        found = choose(logits, [Sampling(temperature=temperature, top=2)] * 4, randoms)
        assert [one is None for one in found] == [False, True, False, True]
        assert randoms[1].random() == Random(1).random(), "it has drawn nothing"
    masked = torch.tensor([[0.0, -inf, -1.0]])
    [only] = choose(masked, [Sampling(top=3)], [Random(0)])
    assert only is not None
    assert only.top[2] == (1, -inf), "what a model rules out is a probability"


PROMPTS = ("Paris is a city in the country of", "The towns near the river")


def test_only_the_row_with_logits_that_are_not_finite_fails(gptj: LoadedModel) -> None:
    view = with_a_broken_word(gptj, *PROMPTS)
    batch = Batch(view)
    rows = [Row(gptj, prompt, Sampling(max_new_tokens=6)) for prompt in PROMPTS]
    batch.add(rows)
    while len(batch):
        batch.step()
    assert rows[0].error is not None
    assert "logits" in str(rows[0].error)
    assert rows[0].result.tokens == []
    assert rows[1].error is None
    expected = generate(ModelView(gptj), [PROMPTS[1]], Sampling(max_new_tokens=6))[0]
    assert [t.id for t in rows[1].result.tokens] == [t.id for t in expected.tokens]


def test_a_row_that_replaces_a_failed_one_is_unaffected(gptj: LoadedModel) -> None:
    """Behind a mask a NaN still reaches a sum: 0 · NaN."""
    view = with_a_broken_word(gptj, *PROMPTS)
    batch, first = Batch(view), Row(gptj, PROMPTS[1], Sampling(max_new_tokens=12))
    batch.add([first])
    batch.step()
    batch.add([Row(gptj, PROMPTS[0], Sampling(max_new_tokens=12))])
    batch.step()
    later = Row(gptj, "The", Sampling(max_new_tokens=4))
    batch.add([later])
    while len(batch):
        batch.step()
    assert later.error is None
    expected = generate(ModelView(gptj), ["The"], Sampling(max_new_tokens=4))[0]
    assert [t.id for t in later.result.tokens] == [t.id for t in expected.tokens]


def test_a_generation_that_is_not_finite_is_an_error(gptj: LoadedModel) -> None:
    with pytest.raises(NumericalError, match="logits"):
        generate(with_a_nan(gptj), list(PROMPTS), Sampling())


def test_scores_name_the_texts_that_are_not_finite(gptj: LoadedModel) -> None:
    view = with_a_broken_word(gptj, *PROMPTS)
    found = score(view, [(prompt, "Peru") for prompt in PROMPTS])
    assert [one.error is None for one in found] == [False, True]
    with pytest.raises(NumericalError, match="log-probability"):
        checked(found)
    with pytest.raises(NumericalError, match="log-probability"):
        score_texts(view, list(PROMPTS))
    with pytest.raises(NumericalError, match="probability"):
        read(view, [Asked(prompt, "Peru", written=True) for prompt in PROMPTS])


def test_probe_and_prefixes_end_on_logits_that_are_not_finite(gptj: LoadedModel) -> None:
    fact = Fact(FACT.subject, FACT.prompt, FACT.target_new, "Norway")
    prompts = prepare(ModelView(gptj), [fact]).prompts
    view = with_a_nan(gptj)
    with pytest.raises(NumericalError, match="probability that a state gives"):
        read_states(view, prompts)
    with pytest.raises(NumericalError, match="a probability of the model"):
        prepare(view, [FACT])
    base = tiny.random_model("gptj")
    base.model.get_parameter(WEIGHT)[0, 0] = nan
    with pytest.raises(JeepError, match="the logits of the model to a prefix"):
        sample_prefixes(base, 2)
