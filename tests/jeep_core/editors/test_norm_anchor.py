"""Norm anchoring: values brought to the norm that sample edits of the base model have."""

from __future__ import annotations

import copy
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from support.library import tiny

from jeep_core.editing import edit, tokenize
from jeep_core.editors import create, hparams_class
from jeep_core.editors.base import EditContext
from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.errors import InvalidHParams, JeepError
from jeep_core.evaluation.trials import Trials
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.probe import anchor as anchor_module
from jeep_core.probe.anchor import anchor_for
from jeep_core.probe.defaults.general import general_knowledge
from jeep_core.spec.chats import in_chat
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import validate_hparams
from jeep_core.spec.positions import chat_rows
from jeep_core.storage.records import unsealed
from jeep_core.values.anchor import (
    TypicalNorm,
    anchor_warnings,
    anchored,
    contributions,
    typical_norm,
)
from jeep_core.values.objective import Values
from jeep_core.values.optimiser import optimise

FACTS = [
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("Oslo", "{} lies in", "Japan"),
    Fact("Rome", "People who live in {} are at home in", "North Norway"),
]
PREFIXES = ["", "The"]
LOW = {"layers": [0, 1], "clamp": 2.0, "moment_weight": 5}
STEPS = {"n_steps": 3, "learning_rate": 0.2}
SETTINGS: dict[str, dict[str, Any]] = {
    "jeep": {"low": LOW, "high": {"layers": [2], "clamp": 1.0, "moment_weight": 5}, **STEPS},
    "memit": {"low": LOW, **STEPS},
    "pmet": {"low": LOW, **STEPS},
    "rome": {"layer": 1, **STEPS},
    "alphaedit": {"low": {**LOW, "null_space": 10.0}, **STEPS},
}


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchor_module, "SAMPLE_EDITS", 6)


@pytest.fixture(scope="module", params=tiny.ALL_FAMILIES)
def family(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny.random_model(request.param)


def hparams(editor: str, **changes: Any) -> Any:
    return validate_hparams(hparams_class(editor), {**SETTINGS[editor], **changes}, 4)


def objective(editor: str) -> Any:
    made: Any = create(editor)
    return made.anchor_objective(hparams(editor))


def context(base: LoadedModel, **more: Any) -> EditContext:
    return EditContext(ModelView(base), tokenize(base, FACTS, PREFIXES), **more)


def test_v_is_what_the_mlp_adds_to_the_state(family: LoadedModel) -> None:
    """A block's output with its MLP and without, read at the subject's last token."""
    facts = tokenize(family, FACTS, PREFIXES)
    found = contributions(ModelView(family), facts, objective("memit"))
    for fact, v in zip(facts, found, strict=True):
        states = []
        for silent in (False, True):
            model = copy.deepcopy(family.model)
            out = tiny.mlp_out(model, 1)
            if silent:
                out.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
            seen: list[torch.Tensor] = []
            tiny.blocks(model)[1].register_forward_hook(
                lambda module, args, output, seen=seen: seen.append(
                    output[0] if isinstance(output, tuple) else output
                )
            )
            row = fact.rows[0]
            model(input_ids=torch.tensor([row.ids]))
            states.append(seen[0].reshape(len(row.ids), -1)[row.subject_last])
        assert torch.allclose(v, states[0] - states[1], atol=1e-4)


def some_values(deltas: torch.Tensor, chat: bool) -> Values:
    values = Values.empty(len(deltas), deltas.shape[1], ["low"], chat, deltas.device)
    values.delta_low, values.low = deltas, 10 + deltas
    if chat:
        values.chat_low = 20 + deltas
    return values


@pytest.mark.parametrize("chat", [False, True])
def test_values_are_scaled_or_left_alone(chat: bool) -> None:
    before = torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    deltas = torch.tensor([[1.0, 3.0], [0.0, -0.5], [20.0, 0.0]])
    found = anchored(some_values(deltas, chat), before, TypicalNorm(4.0))
    # ‖v*‖ of 5 and 0.5 become 4; one of 21, more than twice 4, keeps its v₀
    v = before + found.delta_low
    assert torch.allclose(v, torch.tensor([[3.2, 2.4], [0.0, 4.0], [1.0, 1.0]]), atol=1e-6)
    assert torch.allclose(found.low, 10 + found.delta_low)
    assert (found.chat_low is not None) is chat
    if found.chat_low is not None:
        assert torch.allclose(found.chat_low, 20 + found.delta_low)


def test_a_multiple_of_rho_moves_no_limit() -> None:
    """What is too far from ρ is so with any factor, and is counted."""
    before = torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    deltas = torch.tensor([[1.0, 3.0], [0.0, 3.0], [20.0, 0.0]])
    for factor in (0.05, 1.0, 10.0):
        found = anchored(some_values(deltas, chat=False), before, TypicalNorm(4.0, factor))
        lengths = (before + found.delta_low).norm(dim=1)
        expected = torch.tensor([4.0 * factor, 4.0 * factor, 2**0.5])
        assert torch.allclose(lengths, expected, rtol=1e-5)
        assert found.left_out is not None
        assert found.left_out.tolist() == [False, False, True]
        [said] = anchor_warnings(found)
        assert said.startswith("norm_anchor left 1 of 3 facts as the model has them: ")
        # the second has the norm of 4 already: its vector is the one that was measured
        assert [found.probability(i) is None for i in range(3)] == [True, factor != 1.0, True]
    assert anchor_warnings(anchored(found.select([0, 1]), before[:2], TypicalNorm(100.0))) == ()
    assert anchor_warnings(some_values(deltas, chat=False)) == anchor_warnings(None) == ()


def test_the_largest_twentieth_does_not_count() -> None:
    lengths = torch.cat([torch.full((38,), 2.0), torch.tensor([50.0, 90.0])])
    assert typical_norm(lengths[torch.randperm(40)]) == 2.0
    assert typical_norm(torch.tensor([1.0, 5.0])) == 3.0


@pytest.mark.parametrize("editor", SETTINGS)
def test_every_value_editor_writes_values_of_one_norm(gptj: LoadedModel, editor: str) -> None:
    moments = Moments(gptj, tiny.TEXTS)
    given = {**SETTINGS[editor], "norm_anchor": 0.9}
    result = edit(gptj, FACTS[:1], editor, hparams=given, prefixes=PREFIXES, moments=moments)
    plain = edit(
        gptj, FACTS[:1], editor, hparams=SETTINGS[editor], prefixes=PREFIXES, moments=moments
    )
    rho = anchor_for(gptj, editor, hparams(editor, norm_anchor=True), PREFIXES)
    assert rho is not None
    facts = tokenize(gptj, FACTS[:1], PREFIXES)
    before = contributions(ModelView(gptj), facts, objective(editor))
    assert float((before + result.values.delta_low).norm()) == pytest.approx(
        0.9 * rho.norm, rel=1e-4
    )
    assert "anchor" in result.inputs
    assert "anchor" in result.seconds
    assert "anchor" not in plain.inputs
    [name, *_] = result.delta.updates
    assert not torch.equal(result.delta.updates[name].matrix(), plain.delta.updates[name].matrix())


@pytest.mark.parametrize("editor", ["jeep", "rome"])
def test_an_edit_counts_the_facts_that_it_leaves_out(
    gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch, editor: str
) -> None:
    """Every value is too long for a tiny ρ; nothing is written and that is said."""
    moments = Moments(gptj, tiny.TEXTS)
    given = {**SETTINGS[editor], "norm_anchor": 10}
    if editor == "jeep":
        given["optimise"] = "low"
    tight = anchor_module.Anchor(1e-6, 1, 6)
    monkeypatch.setattr(anchor_module, "_measured", lambda *rest: tight)
    result = edit(gptj, FACTS[:2], editor, hparams=given, prefixes=PREFIXES, moments=moments)
    assert all(layer.relative_norm < 1e-6 for layer in result.layers)
    [said] = [one for one in result.warnings if "norm_anchor" in one]
    assert "left 2 of 2 facts" in said
    assert [result.values.probability(i) for i in range(2)] == [None, None]


@pytest.mark.parametrize("editor", ["jeep", "memit"])
def test_a_small_factor_still_edits(gptj: LoadedModel, editor: str) -> None:
    moments = Moments(gptj, tiny.TEXTS)
    given = {**SETTINGS[editor], "norm_anchor": 0.05}
    result = edit(gptj, FACTS[:2], editor, hparams=given, prefixes=PREFIXES, moments=moments)
    assert all(layer.relative_norm > 1e-4 for layer in result.layers)
    assert not any("norm_anchor" in one for one in result.warnings)
    assert result.values.probability(0) is None


def test_a_second_optimisation_measures_what_was_anchored(gptj: LoadedModel) -> None:
    moments = Moments(gptj, tiny.TEXTS)
    given = {**SETTINGS["jeep"], "norm_anchor": True, "optimise": "separately"}
    result = edit(gptj, FACTS[:2], "jeep", hparams=given, prefixes=PREFIXES, moments=moments)
    assert result.values.left_out is not None
    assert result.values.probability(0) == float(result.values.probabilities[0])


def test_rho_is_the_mean_over_sample_edits_and_kept(
    gptj: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hparams("memit", norm_anchor=True)
    first = anchor_for(gptj, "memit", asked, PREFIXES, folder=tmp_path)
    assert first is not None
    facts = anchor_module._sample(gptj, PREFIXES)
    assert (len(facts), first.edits, first.layer) == (6, 6, 1)
    values = optimise(ModelView(gptj), facts, objective("memit"))
    before = contributions(ModelView(gptj), facts, objective("memit"))
    lengths = (before + values.delta_low).norm(dim=1)
    assert first.norm == pytest.approx(float(lengths.mean()), rel=1e-5)
    [path] = tmp_path.iterdir()
    assert json.loads(unsealed(path.read_bytes()))["norm"] == first.norm
    with monkeypatch.context() as patch:
        patch.delattr(anchor_module, "optimise")
        half = anchor_for(
            gptj, "memit", hparams("memit", norm_anchor=0.5), PREFIXES, folder=tmp_path
        )
        assert half is not None
        assert half.wanted == TypicalNorm(first.norm, 0.5)
        assert half.sha256 != first.sha256
    data = bytearray(path.read_bytes())
    data[12] ^= 1
    path.write_bytes(data)
    assert anchor_for(gptj, "memit", asked, PREFIXES, folder=tmp_path) == first
    other = hparams("memit", norm_anchor=True, n_steps=5)
    anchor_for(gptj, "memit", other, PREFIXES, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_rho_is_not_written_over_a_file_that_cannot_be_read_now(
    gptj: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def failing(path: Path) -> bytes:
        raise OSError(number, os.strerror(number), str(path))

    asked = hparams("memit", norm_anchor=True)
    first = anchor_for(gptj, "memit", asked, PREFIXES, folder=tmp_path)
    [path] = tmp_path.iterdir()
    before = path.stat()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        assert anchor_for(gptj, "memit", asked, PREFIXES, folder=tmp_path) == first
    assert path.stat() == before


def test_edits_of_chats_alone_are_compared_with_edits_of_chats(tmp_path: Path) -> None:
    """v₀ and ρ are of the same way of asking."""
    base = tiny.chat_model("llama")
    norms = {}
    for contexts in ("plain", "both", "chat"):
        asked = hparams("memit", norm_anchor=True, contexts=contexts)
        found = anchor_for(base, "memit", asked, PREFIXES, folder=tmp_path)
        assert found is not None
        norms[contexts] = found.norm
    assert norms["both"] == norms["plain"] != norms["chat"]
    assert len(list(tmp_path.iterdir())) == 2
    cases = [in_chat(case, base.chat) for case in general_knowledge()]
    rows = [chat_rows(base.tokenizer, case, PREFIXES) for case in cases[:6]]
    facts = anchor_module._sample(base, PREFIXES, "chat")
    assert [list(fact.rows) for fact in facts] == rows
    values = optimise(ModelView(base), facts, objective("memit"))
    before = contributions(ModelView(base), facts, objective("memit"))
    lengths = (before + values.delta_low).norm(dim=1)
    assert norms["chat"] == pytest.approx(float(lengths.mean()), rel=1e-5)


def test_no_sample_edit_is_an_error_that_names_the_switch(
    gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchor_module, "general_knowledge", list)
    with pytest.raises(JeepError, match=r"^norm_anchor measures sample edits, .* leave it out$"):
        anchor_for(gptj, "memit", hparams("memit", norm_anchor=True), PREFIXES)


def test_values_that_have_grown_come_back_to_the_norm(gptj: LoadedModel) -> None:
    """On a version whose MLP gives more, against the version as it is."""
    grown = ModelView(gptj)
    name = gptj.family.weight_name(1)
    grown.replace(name, 1.7 * grown.parameter(name))
    facts = tokenize(gptj, FACTS, PREFIXES)
    before = contributions(grown, facts, objective("memit"))
    free = EditContext(grown, facts).optimised(objective("memit"))
    rho = float((before + free.delta_low).norm(dim=1).mean()) / 1.6
    found = EditContext(grown, facts, anchor=TypicalNorm(rho)).optimised(objective("memit"))
    lengths = (before + found.delta_low).norm(dim=1)
    assert torch.allclose(lengths, torch.full_like(lengths, rho), rtol=1e-4)


def test_trials_anchor_what_they_have_kept(gptj: LoadedModel) -> None:
    trials = Trials(gptj, FACTS, Moments(gptj, tiny.TEXTS), PREFIXES)
    plain, anchored_ = (
        trials.edit("memit", hparams("memit", norm_anchor=on), [0, 1])[1] for on in (False, True)
    )
    assert plain.values is not None
    assert anchored_.values is not None
    assert not torch.equal(plain.values.delta_low, anchored_.values.delta_low)
    again = trials.edit("memit", hparams("memit"), [0, 1])[1]
    assert again.values is not None
    assert torch.equal(plain.values.delta_low, again.values.delta_low)


def test_what_cannot_be_anchored_is_refused(gptj: LoadedModel) -> None:
    high = hparams("jeep", norm_anchor=True, optimise="high")
    with pytest.raises(InvalidHParams, match="jeep optimises no vector at the subject"):
        anchor_for(gptj, "jeep", high, PREFIXES)
    for wrong in (0, -1.0, 11, "yes"):
        with pytest.raises(InvalidHParams, match="/hparams/norm_anchor"):
            hparams("memit", norm_anchor=wrong)
    assert MemitHParams.model_validate(SETTINGS["memit"]).norm_anchor is False
    assert anchor_for(gptj, "memit", hparams("memit"), PREFIXES) is None
