"""Reading a region while it is written: the same bits as from the embedding, layer by layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.library import tiny
from support.library.closed_form import JEEP, context_of

from jeep_core.editing import run_editor
from jeep_core.editors import base as base_module
from jeep_core.models.delta import Update
from jeep_core.models.fused.twin import Twin
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.spec.facts import Fact
from jeep_core.spec.matrices import AttentionOut, Place
from jeep_core.spec.positions import fact_rows
from jeep_core.values import reader as reader_module
from jeep_core.values.reader import FactRows, RegionReader

PREFIXES = ("", "The river is wide and the land around it is old", "Because")
FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("São Paulo", "People who live in {} are at home in", "Norway, near 東京"),
    Fact("3M", "{}'s", "1984"),
)
LAST = 2


@pytest.fixture(scope="module", params=tiny.ALL_FAMILIES)
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny.random_model(request.param)


def rows_of(base: LoadedModel, prefixes: tuple[str, ...] = PREFIXES) -> FactRows:
    return [fact_rows(base.tokenizer, fact, prefixes)[0] for fact in FACTS]


def write(view: ModelView, place: Place, seed: int) -> None:
    """Change a matrix by a random update."""
    name = view.base.family.weight_name(place)
    generator = torch.Generator().manual_seed(seed)
    projection = view.base.family.projection_of(view.model, place)
    weight = view.parameter(name)
    rows, columns = weight.shape if not hasattr(projection, "nf") else weight.T.shape
    left = torch.randn(rows, 1, generator=generator).double()
    right = torch.randn(columns, 1, generator=generator).double()
    view.update(name, Update.of(left, 0.1 * right))


@pytest.mark.parametrize("prefixes", [PREFIXES, ("",)], ids=["prefixes", "plain"])
@pytest.mark.parametrize("position", ["subject_last", "prediction"])
def test_a_reader_that_climbs_reads_the_bits_of_one_that_begins_at_the_embedding(
    model: LoadedModel, position: Any, prefixes: tuple[str, ...]
) -> None:
    view, rows = ModelView(model), rows_of(model, prefixes)
    reader = RegionReader(view, rows, position, LAST)
    for layer in range(LAST + 1):
        found = reader.read(layer)
        afresh = RegionReader(view, rows, position, LAST)
        for one, other in zip(found, afresh.read(layer), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(reader.by_row(layer), afresh.by_row(layer))
        before = found
        write(view, layer, seed=layer)
    assert torch.equal(reader.states(), RegionReader(view, rows, position, LAST).states())
    assert not torch.equal(reader.states(), before[1])


def held(reader: RegionReader) -> list[int]:
    """The bytes of the states that are kept, batch by batch."""
    batches = (*reader._plain, *reader._others)
    return [0 if one.states is None else one.states.nbytes for one in batches]


@pytest.mark.parametrize("position", ["subject_last", "prediction"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_bounded_memory_changes_no_bit(
    model: LoadedModel, position: Any, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows whose states are not kept run from the embedding, after the same leading tokens."""
    monkeypatch.setattr(reader_module, "READ_ROWS", 2)
    view, rows = ModelView(model), rows_of(model)
    whole = RegionReader(view, rows, position, LAST)
    whole.read(1)
    limit = int(share * sum(held(whole)))
    whole = RegionReader(view, rows, position, LAST)
    bounded = RegionReader(view, rows, position, LAST, memory_bytes=limit)
    for layer in range(LAST + 1):
        for one, other in zip(bounded.read(layer), whole.read(layer), strict=True):
            assert torch.equal(one, other)
        write(view, layer, seed=layer)
        assert sum(held(bounded)) <= limit
    assert any(held(bounded)) == bool(share)
    assert 0 in held(bounded)
    assert 0 not in held(whole)
    assert torch.equal(bounded.states(), whole.states())


def test_an_edit_keeps_as_many_states_as_its_memory_allows(
    gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is the same edit, with the same values."""
    made: list[RegionReader] = []

    class Watched(RegionReader):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            made.append(self)

    monkeypatch.setattr(base_module, "RegionReader", Watched)
    context = context_of(gptj)
    objective = base_module.objective_for("jeep", JEEP)
    assert objective is not None
    values = context.optimised(objective)
    whole, bounded = (
        run_editor("jeep", context_of(gptj, values=values, memory_bytes=limit), JEEP)[1]
        for limit in (None, 0)
    )
    assert whole.weights_sha256() == bounded.weights_sha256()
    assert [any(held(reader)) for reader in made] == [True, True, False, False]


def test_layers_may_be_left_out_and_attention_written(model: LoadedModel) -> None:
    view, rows = ModelView(model), rows_of(model)
    reader = RegionReader(view, rows, "prediction", LAST)
    for place in (AttentionOut(0), AttentionOut(LAST)):
        found = reader.read(place)
        afresh = RegionReader(view, rows, "prediction", LAST).read(place)
        assert all(torch.equal(a, b) for a, b in zip(found, afresh, strict=True))
        write(view, place, seed=5)


def test_rows_after_prefixes_may_be_read_in_bfloat16(model: LoadedModel) -> None:
    """Keys are near to exact ones; those without a prefix, and states, are exact."""
    view, rows = ModelView(model), rows_of(model)
    reader = RegionReader(view, rows, "subject_last", LAST, twin=Twin(view))
    for layer in range(LAST + 1):
        exact = RegionReader(view, rows, "subject_last", LAST)
        keys, states = reader.read(layer)
        expected, unchanged = exact.read(layer)
        assert torch.equal(states, unchanged)
        assert (keys - expected).norm() < 0.02 * expected.norm()
        assert not torch.equal(keys, expected)
        assert torch.equal(reader.by_row(layer)[:, 0], exact.by_row(layer)[:, 0])
        write(view, layer, layer)


def test_a_twin_follows_what_is_written(model: LoadedModel) -> None:
    view = ModelView(model)
    twin = Twin(view)
    first = twin.now()
    for place in (1, AttentionOut(1)):
        write(view, place, 3)
        name = view.base.family.weight_name(place)
        assert twin.now() is first
        assert torch.equal(first.parameter(name), view.parameter(name).to(torch.bfloat16))


def test_a_twin_is_made_again_where_a_matrix_beside_others_is_written() -> None:
    base = tiny.random_model("llama")
    view = ModelView(base)
    twin = Twin(view)
    first, name = twin.now(), "model.layers.1.self_attn.k_proj.weight"
    view.replace(name, view.parameter(name) + 1)
    second = twin.now()
    assert second is not first
    assert torch.equal(second.parameter(name), view.parameter(name).to(torch.bfloat16))
    attention: Any = tiny.blocks(second.model)[1].self_attn
    weights = [getattr(attention, part).weight for part in ("q_proj", "k_proj", "v_proj")]
    assert torch.equal(attention.forward.inner.whole, torch.cat(weights))
