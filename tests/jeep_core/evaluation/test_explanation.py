"""Answers taken apart by facts, against versions from which single facts are left out."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import Any

import pytest
import torch
from support import ROOT
from support.library.closed_form import FACTS, HIGH, JEEP, LOW, MEMIT, context_of

from jeep_core.decoding.generation import score_rows
from jeep_core.editors import available, create
from jeep_core.editors.alphaedit.hparams import AlphaEditHParams
from jeep_core.editors.base import carry_out
from jeep_core.editors.pmet.hparams import PmetHParams
from jeep_core.editors.rome.hparams import RomeHParams
from jeep_core.evaluation.explanation import Attribution, Batch, Cause, Share, can_split
from jeep_core.models.delta import Update, summed
from jeep_core.models.families import is_transposed
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.text.encoding import encode

HPARAMS: dict[str, Any] = {
    "jeep": JEEP,
    "memit": MEMIT,
    "pmet": PmetHParams(low={**LOW, "layers": [1, 2]}, n_steps=4),
    "alphaedit": AlphaEditHParams(low={**LOW, "null_space": 1e9}, n_steps=4),
    "rome": RomeHParams(layer=1, n_steps=4),
}
EXACT = 1e-5
PROMPT = "Paris is a city in the country of Peru"


def edited(base: LoadedModel, editor: str) -> tuple[ModelView, Batch]:
    context = context_of(base)
    outcome = carry_out(create(editor), context, HPARAMS[editor])
    view = ModelView(base)
    view.apply(outcome.delta)
    return view, Batch(outcome.delta.updates, len(FACTS))


def without_fact(update: Update, fact: int) -> Update:
    assert update.left is not None
    assert update.right is not None
    kept = [i for i in range(update.left.shape[1]) if i % len(FACTS) != fact]
    return Update(left=update.left[:, kept], right=update.right[:, kept])


def matrix(base: LoadedModel, name: str, updates: list[Update]) -> torch.Tensor:
    """W + Σ Δ (out, in) in float64, not rounded."""
    turned = is_transposed(base.model.get_submodule(name.rpartition(".")[0]))
    whole = summed(base.model.get_parameter(name), updates, turned)
    return whole.T if turned else whole


def version_of(base: LoadedModel, updates: Mapping[str, Update]) -> ModelView:
    view = ModelView(base)
    for name, update in updates.items():
        view.update(name, update)
    return view


def row(base: LoadedModel, prompt: str = PROMPT) -> tuple[list[int], int]:
    ids = list(encode(base.tokenizer, prompt).ids)
    return ids, len(ids) - 2


def probability(view: ModelView, asked: tuple[list[int], int]) -> float:
    return exp(score_rows(view, [asked])[0].mean)


@pytest.mark.parametrize("editor", HPARAMS)
@pytest.mark.parametrize("family", ["gptj", "gpt2"])
def test_parts_are_those_of_versions_without_single_facts(
    editor: str, family: str, request: pytest.FixtureRequest
) -> None:
    base: LoadedModel = request.getfixturevalue(family)
    view, batch = edited(base, editor)
    ids, start = row(base)
    attribution = Attribution(view, [batch])
    inputs, _ = attribution.inputs(ids[:-1])
    found = attribution.explain(ids, start, top=3)
    assert set(attribution.names) == set(batch.updates)
    for name, update in batch.updates.items():
        whole, total = matrix(base, name, [update]), inputs[name] @ update.matrix().T
        for fact in range(len(FACTS)):
            rest = matrix(base, name, [without_fact(update, fact)])
            # (t, out): what the output loses without the fact
            lost = inputs[name] @ (whole - rest).T
            part = attribution.vectors(name, Cause(0, fact), inputs[name])
            assert (part - lost).norm() <= EXACT * lost.norm()
            for place in (one for one in found.places if one.name == name):
                at = lost[place.position]
                [own] = [one for one in place.parts if one.cause.fact == fact]
                assert own.norm == pytest.approx(float(at.norm()), rel=EXACT)
                along = float(at @ total[place.position]) / float(total[place.position].norm() ** 2)
                assert own.share == pytest.approx(along, rel=EXACT, abs=1e-9)
                assert place.norm == pytest.approx(float(total[place.position].norm()), rel=EXACT)


@pytest.mark.parametrize("editor", ["jeep", "rome"])
def test_an_answer_without_a_fact_is_that_of_the_version_without_it(
    editor: str, gptj: LoadedModel
) -> None:
    view, batch = edited(gptj, editor)
    asked = row(gptj)
    found = Attribution(view, [batch]).explain(*asked, top=3)
    assert found.base == pytest.approx(probability(ModelView(gptj), asked), rel=EXACT)
    assert found.probability == pytest.approx(probability(view, asked), rel=EXACT)
    assert len(found.shares) == 3
    for share in found.shares:
        assert share.cause.fact is not None
        updates = {n: without_fact(u, share.cause.fact) for n, u in batch.updates.items()}
        expected = probability(version_of(gptj, updates), asked)
        assert share.without == pytest.approx(expected, rel=EXACT)


def test_shares_add_up_and_the_edited_fact_has_the_largest(gptj: LoadedModel) -> None:
    view, batch = edited(gptj, "jeep")
    ids, start = row(gptj)
    found = Attribution(view, [batch]).explain(ids, start, top=3)
    assert sum(share.share for share in found.shares) == pytest.approx(1.0)
    assert found.shares[0].cause == Cause(0, 0), "the prompt is that of the first fact"
    for place in found.places:
        assert sum(part.share for part in place.parts) == pytest.approx(1.0)


def test_steps_lead_from_base_to_the_version_block_by_block(gptj: LoadedModel) -> None:
    view, batch = edited(gptj, "jeep")
    asked = row(gptj)
    found = Attribution(view, [batch]).explain(*asked)
    assert [step.layer for step in found.steps] == [*LOW["layers"], *HIGH["layers"]]
    for step in found.steps:
        names = [gptj.family.weight_name(layer) for layer in range(step.layer + 1)]
        partial = {n: u for n, u in batch.updates.items() if n in names}
        expected = probability(version_of(gptj, partial), asked)
        assert step.probability == pytest.approx(expected, rel=EXACT)
    assert found.steps[-1].probability == found.probability


def test_batches_that_cannot_be_split_count_as_a_whole(gptj: LoadedModel) -> None:
    view, batch = edited(gptj, "memit")
    name = next(iter(batch.updates))
    random = torch.Generator().manual_seed(0)
    size = gptj.model.get_parameter(name).shape
    dense = Update(dense=0.05 * torch.randn(size, generator=random))
    loose = Update(left=torch.randn(size[0], 4, generator=random), right=torch.rand(size[1], 4))
    later = [Batch({name: dense}), Batch({name: loose})]
    view = version_of(gptj, batch.updates)
    view.update(name, dense)
    view.update(name, loose)
    ids, start = row(gptj)
    attribution = Attribution(view, [batch, *later])
    found = attribution.explain(ids, start, top=5)
    assert set(attribution.causes) == {Cause(0, 0), Cause(0, 1), Cause(0, 2), Cause(1), Cause(2)}
    inputs, _ = attribution.inputs(ids[:-1])
    for cause, update in ((Cause(1), dense), (Cause(2), loose)):
        expected = inputs[name] @ update.matrix().T
        part = attribution.vectors(name, cause, inputs[name])
        assert (part - expected).norm() <= EXACT * expected.norm()
        for place in (one for one in found.places if one.name == name):
            [own] = [one for one in place.parts if one.cause == cause]
            assert own.norm == pytest.approx(float(expected[place.position].norm()), rel=EXACT)
    assert sum(share.share for share in found.shares) == pytest.approx(1.0)
    [gone] = [share for share in found.shares if share.cause == Cause(1)]
    rest = version_of(gptj, batch.updates)
    rest.update(name, loose)
    assert gone.without == pytest.approx(probability(rest, (ids, start)), rel=EXACT)


def test_nothing_moves_the_base_model(gptj: LoadedModel) -> None:
    found = Attribution(ModelView(gptj), []).explain(*row(gptj))
    assert (found.places, found.shares, found.steps) == ((), (), ())
    assert found.probability == found.base


def test_only_the_largest_causes_are_taken_out(gptj: LoadedModel) -> None:
    view, batch = edited(gptj, "jeep")
    found = Attribution(view, [batch]).explain(*row(gptj), top=1)
    assert [isinstance(share.without, float) for share in found.shares] == [True, False, False]
    assert all(len(place.parts) == 1 for place in found.places)
    assert isinstance(found.shares[0], Share)


def test_the_records_of_editors_say_whose_columns_are_facts() -> None:
    split = {name for name, record in available()[0].items() if record.columns_per_fact}
    assert split >= set(HPARAMS)
    assert not split & {"ft_wd", "ft-wd", "mend", "malmen"}


def test_the_page_says_of_every_editor_whether_explanations_name_its_facts() -> None:
    table = (ROOT / "docs/effects.md").read_text().split("| editor | columns for each fact |")[1]
    rows = [line.split("|")[1:3] for line in table.split("\n\n")[0].splitlines()[2:]]
    said = {
        name.strip().casefold(): answer.strip().startswith("yes")
        for names, answer in rows
        for name in names.split(",")
    }
    del said["a plugin"]
    records = available()[0]
    assert said == {name: record.columns_per_fact for name, record in records.items()}


def test_only_factors_with_a_column_for_each_fact_can_be_split() -> None:
    factors = Update(left=torch.zeros(3, 6), right=torch.zeros(4, 6))
    assert can_split(factors, 6)
    assert can_split(factors, 3)
    assert not can_split(factors, 4)
    assert not can_split(factors, 0)
    assert not can_split(Update(dense=torch.zeros(3, 4)), 1)


def test_columns_of_a_second_way_of_asking_come_after_the_others(gptj: LoadedModel) -> None:
    name = gptj.family.weight_name(1)
    random = torch.Generator().manual_seed(3)
    rows, inner = gptj.model.get_parameter(name).shape
    left = torch.randn(rows, 6, generator=random)
    update = Update(left=left, right=0.01 * torch.randn(inner, 6, generator=random))
    view = version_of(gptj, {name: update})
    ids, start = row(gptj)
    attribution = Attribution(view, [Batch({name: update}, 3)])
    inputs, _ = attribution.inputs(ids[:-1])
    found = attribution.explain(ids, start, top=3)
    for fact in range(3):
        whole = matrix(gptj, name, [update])
        lost = inputs[name] @ (whole - matrix(gptj, name, [without_fact(update, fact)])).T
        for place in found.places:
            [own] = [part for part in place.parts if part.cause == Cause(0, fact)]
            assert own.norm == pytest.approx(float(lost[place.position].norm()), rel=EXACT)


def test_columns_of_a_long_line_are_copied_once(
    gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of a thousand batches would otherwise be copied a thousand times."""
    view, batch = edited(gptj, "memit")
    copied: list[int] = []
    cat = torch.cat

    def counted(tensors: Any, dim: int = 0) -> torch.Tensor:
        whole = cat(tensors, dim)
        copied.append(whole.numel())
        return whole

    monkeypatch.setattr(torch, "cat", counted)
    made = Attribution(view, [batch] * 50)
    monkeypatch.undo()
    columns = 50 * len(FACTS)
    sizes = [sum(made.view.parameter(name).shape) for name in made.names]
    assert sum(copied) == sum(columns * (size + 1) for size in sizes)
    inputs, _ = made.inputs(row(gptj)[0])
    x = inputs[made.names[0]]
    last = made.vectors(made.names[0], Cause(49, 1), x)
    assert torch.equal(last, made.vectors(made.names[0], Cause(0, 1), x))
    assert float(last.norm()) > 0
