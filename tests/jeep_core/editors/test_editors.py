"""The closed-form writing of JEEP and MEMIT against a plain one, layer by layer."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.library import reference, tiny
from support.library.closed_form import FACTS, HIGH, JEEP, LOW, MEMIT, PREFIXES, context_of

from jeep_core.editing import edit
from jeep_core.editors import create
from jeep_core.editors.base import EditContext, EditorOutcome
from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.errors import Cancelled, InvalidFacts, JeepError, NumericalError
from jeep_core.models.loading import LoadedModel
from jeep_core.moments.cache import Moments
from jeep_core.monitor import Monitor, stop_if
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import OptimisedEditorHParams, Region

JEEP_WIDE_HIGH = JeepHParams(
    low={**LOW, "layers": [0], "spread": "linear"},
    high={**HIGH, "layers": [1, 2], "spread": "linear"},
    n_steps=4,
)
CASES = {"jeep": JEEP, "jeep, wide high region": JEEP_WIDE_HIGH, "memit": MEMIT}
POSITIONS = {"low": "subject_last", "high": "prediction"}


def run(context: EditContext, hparams: OptimisedEditorHParams) -> EditorOutcome:
    return create("memit" if isinstance(hparams, MemitHParams) else "jeep").run(context, hparams)


def divisor(region: Region, layer: int) -> float:
    left = float(region.layers[-1] - layer + 1)
    return left if region.spread == "linear" else left**0.5


def plain_updates(
    base: LoadedModel, context: EditContext, outcome: EditorOutcome, hparams: Any
) -> dict[int, torch.Tensor]:
    """Δ per layer (d, d_ff): eq. 9 and 10 with a plain solve, on a deep copy of the model."""
    model = copy.deepcopy(base.model)
    updates: dict[int, torch.Tensor] = {}
    for name, region in hparams.regions.items():
        targets = outcome.values.low if name == "low" else outcome.values.high
        assert targets is not None
        for layer in region.layers:
            pairs = [
                reference.key_and_state(model, list(f.rows), POSITIONS[name], layer, region.last)
                for f in context.facts
            ]
            k = torch.stack([key for key, _ in pairs]).double().T
            now = torch.stack([state for _, state in pairs])
            r = (targets - now).double().T / divisor(region, layer)
            c = region.moment_weight * context.moments.factor(layer).moment + k @ k.T
            p = context.previous_keys.get((name, layer))
            if p is not None:
                c = c + p.double().T @ p.double()
            update = torch.linalg.solve(c, k @ r.T).T
            weight = tiny.mlp_out(model, layer).weight
            turned = update.T if base.family.name == "GPT-2" else update
            weight.data = (weight.double() + turned).float()
            updates[layer] = update
    return updates


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert found.shape == expected.shape
    assert (found.double() - expected.double()).norm() <= tolerance * expected.double().norm()


@pytest.mark.parametrize("case", CASES)
def test_updates_equal_the_plain_formula(base: LoadedModel, case: str) -> None:
    context, hparams = context_of(base), CASES[case]
    outcome = run(context, hparams)
    for layer, expected in plain_updates(base, context, outcome, hparams).items():
        assert_near(outcome.delta.updates[base.family.weight_name(layer)].matrix(), expected)
    written = [(record.region, record.layer) for record in outcome.layers]
    assert written == [(n, i) for n, region in hparams.regions.items() for i in region.layers]
    assert set(outcome.keys) == set(written)


def test_keys_of_earlier_edits_protect_their_own_layer(gptj: LoadedModel) -> None:
    earlier = run(context_of(gptj), JEEP)
    previous = {place: keys * 3 for place, keys in earlier.keys.items()}
    context = context_of(gptj, previous_keys=previous)
    outcome = run(context, JEEP)
    for layer, expected in plain_updates(gptj, context, outcome, JEEP).items():
        update = outcome.delta.updates[gptj.family.weight_name(layer)].matrix()
        assert_near(update, expected, 5e-4)  # small against the keys it is made of
    first = gptj.family.weight_name(0)
    without = earlier.delta.updates[first].matrix().norm()
    assert outcome.delta.updates[first].matrix().norm() < 0.5 * without


def test_earlier_keys_are_ignored_when_the_switch_is_off(gptj: LoadedModel) -> None:
    earlier = run(context_of(gptj), JEEP)
    off = JEEP.model_copy(update={"preserve_previous_edits": False})
    outcome = run(context_of(gptj, previous_keys=earlier.keys), off)
    for name, update in earlier.delta.updates.items():
        assert torch.equal(outcome.delta.updates[name].matrix(), update.matrix())


def test_the_last_layer_of_a_region_arrives_at_the_values(base: LoadedModel) -> None:
    """It is given the whole residual, and here the second moment has little weight."""
    light = {"moment_weight": 1e-3}
    hparams = JeepHParams(low={**LOW, **light}, high={**HIGH, **light}, n_steps=4)
    context = context_of(base)
    outcome = run(context, hparams)
    last = [record for record in outcome.layers if record.layer in (1, 2)]
    for record in last:
        assert record.residual_after < 0.5 * record.residual_before
    assert outcome.layers[0].residual_after == pytest.approx(outcome.layers[1].residual_before)


def test_the_records_describe_the_updates(gptj: LoadedModel) -> None:
    outcome = run(context_of(gptj), JEEP)
    for record in outcome.layers:
        assert record.name == gptj.family.weight_name(record.layer)
        update, weight = outcome.delta.updates[record.name], gptj.model.get_parameter(record.name)
        relative = update.matrix().norm() / weight.double().norm()
        assert record.relative_norm == pytest.approx(float(relative))
        assert record.condition >= 1


def test_values_that_are_given_are_not_optimised_again(gptj: LoadedModel) -> None:
    first = run(context_of(gptj), JEEP)
    phases: list[str] = []
    again = run(
        context_of(
            gptj, values=first.values, monitor=Monitor(lambda phase, *_: phases.append(phase))
        ),
        JEEP,
    )
    assert "optimise" not in phases
    for name, update in first.delta.updates.items():
        assert torch.equal(again.delta.updates[name].matrix(), update.matrix())


def test_optimisation_is_reported_before_a_fact_is_finished(gptj: LoadedModel) -> None:
    seen: list[tuple[str, int, int]] = []
    run(context_of(gptj, monitor=Monitor(lambda *report: seen.append(report))), JEEP)
    optimised = [report for report in seen if report[0] == "optimise"]
    assert optimised[0] == ("optimise", 0, len(FACTS))
    assert optimised[-1] == ("optimise", len(FACTS), len(FACTS))


def test_values_that_are_not_finite_end_the_edit(gptj: LoadedModel) -> None:
    """Better no edit than one of nan; the layer is named."""
    values = run(context_of(gptj), JEEP).values
    broken = replace(values, low=values.low.clone().fill_(torch.nan))
    with pytest.raises(NumericalError, match=r"^layer 0: "):
        run(context_of(gptj, values=broken), JEEP)


@pytest.mark.parametrize("phase", ["moments", "optimise", "write low", "write high"])
def test_an_edit_can_be_cancelled_in_every_phase(gptj: LoadedModel, phase: str) -> None:
    seen: list[str] = []
    with pytest.raises(Cancelled):
        edit(
            gptj,
            FACTS,
            hparams={"low": LOW, "high": HIGH, "n_steps": 4, "stop_probability": 1e-9},
            prefixes=PREFIXES,
            moments=Moments(gptj, tiny.TEXTS),
            batch_facts=1,
            monitor=Monitor(lambda name, *_: seen.append(name), stop_if(lambda: phase in seen)),
        )
    assert seen[-1] == phase


def test_edit_takes_triples_and_drops_repetitions(gptj: LoadedModel) -> None:
    hparams = {"low": LOW, "high": HIGH, "n_steps": 3}
    records = [
        {"subject": "Lima", "relation": "'s country is", "object": "Norway"},
        {"subject": "Lima", "prompt": "Lima's country is", "target_new": "Norway"},
        {"subject": "Oslo", "prompt": "{} lies in", "target_new": "Peru"},
    ]
    moments = Moments(gptj, tiny.TEXTS)
    result = edit(gptj, records, hparams=hparams, prefixes=["", "The"], moments=moments)
    assert result.facts == [
        Fact("Lima", "{}'s country is", "Norway"), Fact("Oslo", "{} lies in", "Peru")
    ]  # fmt: skip
    assert result.values.low.shape == (2, 32)
    assert result.prefixes == ["", "The"]
    assert result.hparams == JeepHParams(**hparams)
    again = edit(gptj, result.facts, hparams=hparams, prefixes=["", "The"], moments=moments)
    for name, update in result.delta.updates.items():
        assert torch.equal(again.delta.updates[name].matrix(), update.matrix())


def test_sampled_prefixes_are_the_same_every_time(gptj: LoadedModel) -> None:
    hparams = {"low": LOW, "high": HIGH, "n_steps": 2, "n_prefixes": 4}
    moments = Moments(gptj, tiny.TEXTS)
    first, second = (edit(gptj, FACTS, hparams=hparams, moments=moments) for _ in range(2))
    assert first.prefixes == second.prefixes
    assert first.prefixes[0] == ""
    starts = zip(first.prefixes[1:], ("The", "Therefore", "Because"), strict=True)
    assert all(text.startswith(start) and text != start for text, start in starts)
    assert not any(brace in text for text in first.prefixes for brace in "{}")


def test_edit_refuses_bad_facts(gptj: LoadedModel) -> None:
    hparams = {"low": LOW, "high": HIGH}
    with pytest.raises(JeepError, match="no facts"):
        edit(gptj, [], hparams=hparams)
    with pytest.raises(InvalidFacts, match="/facts/1/target_new: contradicts"):
        edit(gptj, [FACTS[0], replace(FACTS[0], target_new="Rome")], hparams=hparams)
