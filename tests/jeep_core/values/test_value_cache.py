"""Values of single facts: what they depend on, when they are computed again, what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.library import tiny
from support.library.closed_form import FACTS, JEEP, MEMIT, PREFIXES, context_of

from jeep_core.editors import create
from jeep_core.editors.alphaedit.hparams import AlphaEditHParams
from jeep_core.editors.pmet.hparams import PmetHParams
from jeep_core.errors import Cancelled
from jeep_core.evaluation.trials import Trials
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.monitor import Monitor, stop_if
from jeep_core.values import cache as value_cache
from jeep_core.values.cache import ValueCache, fact_key, set_key
from jeep_core.values.objective import FactTokens, Objective, Values
from jeep_core.values.optimiser import optimise

LOW = {"layers": [0, 1], "clamp": 2.0, "moment_weight": 5}


def objective_of(editor: str, hparams: Any) -> Objective:
    found: Objective = create(editor).objective(hparams)  # type: ignore[attr-defined]
    return found


def facts_of(base: LoadedModel) -> Sequence[FactTokens]:
    return context_of(base).facts


def same(ours: Values, theirs: Values) -> bool:
    """Rounding is left: the facts beside a fact may be others."""
    names = ("low", "high", "delta_low", "delta_high", "losses", "probabilities", "attention")
    pairs = [(getattr(ours, name), getattr(theirs, name)) for name in names]
    tensors = [(a, b) for a, b in pairs if a is not None and b is not None]
    present = all((a is None) == (b is None) for a, b in pairs)
    close = all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in tensors)
    return present and close and torch.equal(ours.steps, theirs.steps)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many facts each call of value optimisation was given."""
    calls: list[int] = []

    def counting(view: ModelView, facts: Sequence[FactTokens], *rest: Any, **more: Any) -> Values:
        calls.append(len(facts))
        return optimise(view, facts, *rest, **more)

    monkeypatch.setattr(value_cache, "optimise", counting)
    return calls


PMET = PmetHParams.model_validate({"low": LOW, "n_steps": 4})


@pytest.mark.parametrize(("editor", "hparams"), [("jeep", JEEP), ("memit", MEMIT), ("pmet", PMET)])
def test_values_from_a_folder_are_those_that_were_optimised(
    gptj: LoadedModel, tmp_path: Path, counted: list[int], editor: str, hparams: Any
) -> None:
    objective, facts = objective_of(editor, hparams), facts_of(gptj)
    plain = optimise(ModelView(gptj), facts, objective)
    first = ValueCache(tmp_path).values(gptj, facts, objective)
    again = ValueCache(tmp_path).values(gptj, facts[::-1], objective)
    assert counted == [len(facts)]
    assert same(first, plain)
    assert same(again.select([2, 1, 0]), first)


def test_only_what_is_not_known_is_optimised(gptj: LoadedModel, counted: list[int]) -> None:
    cache, facts, objective = ValueCache(), facts_of(gptj), objective_of("jeep", JEEP)
    cache.values(gptj, facts[:1], objective)
    whole = cache.values(gptj, [*facts, facts[0]], objective)
    assert counted == [1, 2]
    assert torch.equal(whole.low[0], whole.low[3])


def test_a_killed_computation_goes_on_where_its_last_chunk_ended(
    gptj: LoadedModel, tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(value_cache, "CHUNK_FACTS", 1)
    facts, objective = facts_of(gptj), objective_of("jeep", JEEP)
    told: list[tuple[int, int]] = []
    with pytest.raises(Cancelled):
        ValueCache(tmp_path).values(
            gptj,
            facts,
            objective,
            monitor=Monitor(
                lambda phase, done, total: told.append((done, total)),
                stop_if(lambda: (2, 3) in told),
            ),
        )
    assert [*dict.fromkeys(told)] == [(0, 3), (1, 3), (2, 3)]
    ValueCache(tmp_path).values(gptj, facts, objective)
    assert counted == [1, 1, 1, 1]  # the third was begun, and is begun again


def test_a_damaged_file_is_computed_again(
    gptj: LoadedModel, tmp_path: Path, counted: list[int]
) -> None:
    facts, objective = facts_of(gptj), objective_of("jeep", JEEP)
    ValueCache(tmp_path).values(gptj, facts, objective)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:200])
    ValueCache(tmp_path).values(gptj, facts, objective)
    ValueCache(tmp_path).values(gptj, facts, objective)
    assert counted == [3, 3]


def test_the_key_of_a_value_names_everything_it_depends_on(
    gptj: LoadedModel, llama: LoadedModel
) -> None:
    """Not on λ, spread or the layers below a region's last, nor on what the editor is called."""
    key = set_key(gptj, objective_of("memit", MEMIT))
    low = {**LOW, "layers": [2], "spread": "sqrt", "moment_weight": 1}
    alike = MEMIT.model_validate({**MEMIT.model_dump(), "low": low})
    assert set_key(gptj, objective_of("memit", alike)) == key
    null_space = {**MEMIT.model_dump(), "low": {**low, "null_space": 0.1}}
    alphaedit = AlphaEditHParams.model_validate(null_space)
    assert set_key(gptj, objective_of("alphaedit", alphaedit)) == key
    others = [{"low": {**low, "clamp": 1.5}}, {"low": {**low, "layers": [1]}}, {"n_steps": 5}]
    others += [{"learning_rate": 0.4}, {"stop_loss": 0.1}, {"kl_weight": 0.5}]
    others += [{"margin": 2.0}]
    for change in others:
        other = MEMIT.model_validate({**MEMIT.model_dump(), **change})
        assert set_key(gptj, objective_of("memit", other)) != key
    assert set_key(llama, objective_of("memit", MEMIT)) != key


def test_values_of_another_format_are_not_read(
    gptj: LoadedModel, tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, objective = facts_of(gptj), objective_of("jeep", JEEP)
    for number in (1, 2, 2):
        monkeypatch.setattr(value_cache, "FORMAT", number)
        ValueCache(tmp_path).values(gptj, facts, objective)
    assert counted == [3, 3]


def test_results_are_those_of_the_format(gptj: LoadedModel) -> None:
    """If this fails, results have changed: raise ``FORMAT`` and write the new ones here."""
    found = ValueCache().values(gptj, facts_of(gptj), objective_of("jeep", JEEP))
    assert found.high is not None
    assert value_cache.FORMAT == 3
    figures = found.low.norm(dim=1), found.high.norm(dim=1), found.losses
    assert torch.stack(figures).flatten().tolist() == pytest.approx(
        [14.3408, 13.5435, 15.9422, 16.6367, 20.7446, 21.5986, 5.95047, 3.77232, 4.77400], rel=1e-3
    )


def test_a_fact_after_other_prefixes_has_another_key(gptj: LoadedModel) -> None:
    fact = facts_of(gptj)[0]
    fewer = FactTokens(fact.rows[:2], fact.kl)
    longer = FactTokens([*fact.rows[:2], fact.rows[1]], fact.kl)
    assert len({fact_key(fact), fact_key(fewer), fact_key(longer)}) == 3


def test_trials_of_several_sizes_optimise_every_fact_once(
    gptj: LoadedModel, counted: list[int]
) -> None:
    trials = Trials(gptj, FACTS, Moments(gptj, tiny.TEXTS), PREFIXES)
    for index in ([0], [1, 2], [0, 1, 2]):
        trials.edit("jeep", JEEP, index)
    wider = JEEP.model_validate({**JEEP.model_dump(), "low": {**LOW, "moment_weight": 50}})
    trials.edit("jeep", wider, [0])
    assert counted == [len(FACTS)]


def test_trials_ask_after_as_many_prefixes_as_the_hyper_parameters_say(gptj: LoadedModel) -> None:
    few = JEEP.model_copy(update={"n_prefixes": 1})
    all_given = Trials(gptj, FACTS, Moments(gptj, tiny.TEXTS), PREFIXES)
    one_given = Trials(gptj, FACTS, Moments(gptj, tiny.TEXTS), PREFIXES[:1])
    found, expected, many = (
        trials.edit("jeep", hparams, [0, 1])[0].weights_sha256()
        for trials, hparams in ((all_given, few), (one_given, few), (all_given, JEEP))
    )
    assert found == expected
    assert found != many
