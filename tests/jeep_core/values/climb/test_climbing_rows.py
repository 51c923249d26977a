"""How often rows run through a block while it is read and written, and at how many places."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from support.library import tiny

from jeep_core.models.delta import Update
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView, answering
from jeep_core.spec.facts import Fact
from jeep_core.spec.positions import fact_rows
from jeep_core.values.climb import rows as climb
from jeep_core.values.reader import FactRows, RegionReader

PREFIXES = ("", "The river is wide and the land around it is old", "Because")
FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("a town by the old river in the north", "{} is near", "Norway"),
    Fact("3M", "{}'s", "1984"),
)
LAST = 2


@pytest.fixture(scope="module", params=tiny.ALL_FAMILIES)
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny.random_model(request.param)


def rows_of(base: LoadedModel) -> FactRows:
    return [fact_rows(base.tokenizer, fact, PREFIXES)[0] for fact in FACTS]


def write(view: ModelView, layer: int) -> None:
    generator = torch.Generator().manual_seed(layer)
    left = torch.randn(view.base.hidden_size, 1, generator=generator).double()
    right = torch.randn(view.base.mlp_size, 1, generator=generator).double()
    view.update(view.base.family.weight_name(layer), Update.of(left, 0.1 * right))


def test_attention_of_a_block_runs_once_for_its_keys_and_its_new_matrix(model: LoadedModel) -> None:
    """Rows without a prefix run once more for each lower layer that is written: their states in
    the last block are read each time."""
    view, runs = ModelView(model), Counter[int]()
    for layer in range(LAST + 1):

        def count(module: Any, args: Any, output: Any, layer: int = layer) -> None:
            runs[layer] += 1

        view.base.family.attention_out_of(view.model, layer).register_forward_hook(count)
    reader = RegionReader(view, rows_of(model), "prediction", LAST)
    assert reader._lead.width, "rows share the tokens of their prefix"
    shared = bool(reader._lead.lengths[0])  # a start token, which states of higher blocks need
    for layer in range(LAST + 1):
        reader.read(layer)
        reader.residuals_at(layer, torch.ones(len(FACTS), model.hidden_size))
        write(view, layer)
    reader.states()
    # rows after prefixes once, rows without once for each layer, leading tokens as is needed
    lead = {layer: layer + 1 if shared else 1 for layer in range(LAST + 1)}
    assert runs == {layer: 1 + layer + 1 + lead[layer] for layer in range(LAST + 1)}


def test_with_a_new_matrix_the_first_one_of_an_mlp_does_not_run_again(gptj: LoadedModel) -> None:
    """Of rows without a prefix, whose keys are known of all tokens."""
    view, runs = ModelView(gptj), Counter[int]()
    for layer in range(LAST + 1):

        def count(module: Any, args: Any, output: Any, layer: int = layer) -> None:
            runs[layer] += 1

        first: Any = tiny.blocks(view.model)[layer].mlp.fc_in
        first.register_forward_hook(count)
    reader = RegionReader(view, [fact[:1] for fact in rows_of(gptj)], "prediction", LAST)
    for layer in range(LAST + 1):
        reader.read(layer)
        write(view, layer)
    reader.states()
    assert runs == {layer: layer + 1 for layer in range(LAST + 1)}


def test_of_an_attention_its_output_is_kept_and_no_probabilities(model: LoadedModel) -> None:
    """Eager attention gives them, too; the bound on what is kept does not count them."""
    view = ModelView(model)
    reader = RegionReader(view, rows_of(model), "prediction", LAST)
    reader.read(1)
    batches = (*reader._plain, *reader._others)
    assert reader._lead_rows is not None
    for rows in (reader._lead_rows, *batches):
        given = rows.seen.attention
        parts = given if isinstance(given, tuple) else (given,)
        kept = [tuple(part.shape) for part in parts if part is not None]
        assert kept == [(*rows.ids.shape, model.hidden_size)]


def test_mlps_run_at_tokens_and_not_at_padding(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, places = rows_of(model), list[int]()

    def count(module: Any, args: Any, output: Any) -> None:
        places.append(args[0].numel() // args[0].shape[-1])

    found: list[tuple[torch.Tensor, ...]] = []
    for fewest in (climb.FEWEST, 10**6):
        monkeypatch.setattr(climb, "FEWEST", fewest)
        view = ModelView(model)
        view.base.family.mlp_out_of(view.model, 0).register_forward_hook(count)
        reader = RegionReader(view, rows, "prediction", LAST)
        reader.read(0)
        write(view, 0)
        found.append((*reader.read(1), reader.by_row(1)))
        places.append(-1)
    end = places.index(-1)
    with_padding = sum(places[end + 1 : -1])
    plain = sum(row[0].prediction + 1 - reader._lead.lengths[0] for row in rows)
    assert plain in places[:end]
    assert sum(places[:end]) < 0.8 * with_padding
    for some, all_places in zip(*found, strict=True):
        torch.testing.assert_close(some, all_places, rtol=1e-5, atol=1e-6)


def test_little_padding_and_few_tokens_are_run_as_they_are() -> None:
    real = torch.ones(4, 10, dtype=torch.bool)
    assert climb.worth_it(real) is None
    real[0, 9] = False
    assert climb.worth_it(real) is None
    real[1:, 5:] = False
    places = climb.worth_it(real)
    assert places is not None
    assert len(places[0]) == real.sum()
    assert climb.worth_it(real[1:2]) is None


def test_a_module_answers_by_another_forward_for_a_while() -> None:
    module, given = torch.nn.Linear(2, 2), torch.ones(1, 2)
    own = module(given)
    with answering(module, lambda x: x + 1):
        assert torch.equal(module(given), given + 1)
    assert torch.equal(module(given), own)
    assert "forward" not in vars(module)
    module.forward = lambda x: x * 2  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="stop"), answering(module, lambda x: x + 1):
        raise RuntimeError("stop")
    assert torch.equal(module(given), given * 2), "a fused part is put back"
