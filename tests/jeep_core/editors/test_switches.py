"""The paper's switches of JEEP, vectors inside a block (ROME, PMET), writing into a null space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.library import tiny
from support.library.closed_form import HIGH, LOW, context_of
from torch.nn import functional as F

from jeep_core.editors import create
from jeep_core.editors.alphaedit.hparams import AlphaEditHParams
from jeep_core.editors.base import EditContext, EditorOutcome
from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.editors.pmet.hparams import PmetHParams
from jeep_core.editors.rome.hparams import RomeHParams
from jeep_core.errors import InvalidHParams, NumericalError
from jeep_core.models.fused.twin import Twin
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.moments.factors import MomentFactor
from jeep_core.moments.sums import accumulate
from jeep_core.monitor import Monitor
from jeep_core.spec.hparams import validate_hparams
from jeep_core.spec.matrices import AttentionOut, Place
from jeep_core.updates.null_space import solve_in_null_space
from jeep_core.values.objective import FactTokens, Objective
from jeep_core.values.optimiser import optimise
from jeep_core.values.reader import RegionReader


def jeep(**changes: Any) -> JeepHParams:
    return JeepHParams.model_validate({"low": LOW, "high": HIGH, "n_steps": 4, **changes})


def run(context: EditContext, hparams: Any, editor: str = "jeep") -> EditorOutcome:
    return create(editor).run(context, hparams)


@pytest.mark.parametrize("only", ["low", "high"])
def test_one_vector_can_be_optimised_alone(gptj: LoadedModel, only: str) -> None:
    """The other one stays zero, and its region as it is."""
    outcome = run(context_of(gptj), jeep(optimise=only))
    assert {record.region for record in outcome.layers} == {only}
    assert outcome.values is not None
    assert outcome.values.delta_low.abs().max() > 0 or only == "high"
    if only == "high":
        assert outcome.values.delta_low.abs().max() == 0
        assert outcome.values.delta_high is not None
        assert outcome.values.delta_high.norm(dim=1).min() > 0
    else:
        assert outcome.values.high is None


@pytest.mark.parametrize("only", ["low", "high"])
def test_one_of_two_optimised_vectors_can_be_written_alone(gptj: LoadedModel, only: str) -> None:
    both, one = run(context_of(gptj), jeep()), run(context_of(gptj), jeep(write=only))
    assert both.values is not None
    assert one.values is not None
    assert torch.equal(one.values.delta_low, both.values.delta_low)
    assert {record.region for record in one.layers} == {only}
    if only == "low":
        for name, update in one.delta.updates.items():
            assert torch.equal(update.matrix(), both.delta.updates[name].matrix())


def test_a_separate_high_vector_is_optimised_on_the_changed_low_region(gptj: LoadedModel) -> None:
    context = context_of(gptj)
    outcome = run(context, jeep(optimise="separately"))
    first = context_of(gptj)
    low = run(first, jeep(optimise="low"))
    second = context_of(gptj, view=first.view.fork())
    high = run(second, jeep(optimise="high"))
    expected = {**low.delta.updates, **high.delta.updates}
    assert list(outcome.delta.updates) == list(expected)
    for name, update in outcome.delta.updates.items():
        assert torch.allclose(update.matrix(), expected[name].matrix(), rtol=1e-4, atol=1e-7)


def test_a_high_vector_that_stays_zero_writes_nothing(gptj: LoadedModel) -> None:
    """Nor the difference between rounded products and the model's own."""
    hparams = jeep(optimise="separately", stop_probability=1e-9, compute_dtype="bfloat16")
    outcome = run(context_of(gptj), hparams)
    assert outcome.values is not None
    assert outcome.values.delta_high is not None
    assert outcome.values.delta_high.abs().max() == 0
    written = [record for record in outcome.layers if record.region == "high"]
    assert written
    assert all(record.relative_norm == 0 for record in written)


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimise": "low", "write": "high"},
        {"optimise": "high", "write": "both"},
        {"optimise": "separately", "write": "low"},
        {"optimise": "first"},
        {"write": "none"},
    ],
)
def test_switches_that_contradict_one_another_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(InvalidHParams):
        validate_hparams(JeepHParams, {"low": LOW, "high": HIGH, **wrong}, 9)


@contextmanager
def adding(module: Any, place: int, delta: torch.Tensor) -> Iterator[None]:
    def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        changed[0, place] += delta
        return changed

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("site", ["mlp", "mlp_and_attention"])
def test_vectors_inside_a_block_do_what_they_do_in_the_whole_model(
    base: LoadedModel, site: Any
) -> None:
    """The last loss, found again with hooks on the projections of the full model."""
    region = jeep().low
    objective = Objective(region, None, 4, 0.5, 0.5, low_site=site)
    context = context_of(base)
    values = optimise(ModelView(base), context.facts, objective)
    model, family, layer = base.model, base.family, region.last
    rows = [fact.rows for fact in context.facts]
    h_low = RegionReader(ModelView(base), rows, "subject_last", layer, at_projection=True).states()
    assert torch.allclose(values.low - values.delta_low, h_low, atol=1e-4)
    for i, fact in enumerate(context.facts):
        modules = [(family.mlp_out_of(model, layer), values.delta_low[i])]
        if values.attention is not None:
            attention = family.attention_out_of(model, layer)
            modules.append((attention, values.attention[i] - _output(model, attention, fact)))
        nlls = []
        for row in fact.rows:
            lp = _log_probabilities(model, row, modules)
            at = range(row.prediction, row.prediction + row.n_target)
            nlls.append(-torch.stack([lp[p, row.ids[p + 1]] for p in at]).mean())
        kl = [_log_probabilities(model, fact.kl, m)[fact.kl.subject_last] for m in ([], modules)]
        loss = torch.stack(nlls).mean() + 0.5 * (kl[1].exp() * (kl[1] - kl[0])).sum()
        norms = [(values.delta_low[i].norm(), h_low[i].norm())]
        if values.attention is not None:
            norms.append((modules[1][1].norm(), _output(model, attention, fact).norm()))
        loss = loss + sum(region.weight_decay * d / h**2 for d, h in norms)
        assert values.losses[i].item() == pytest.approx(float(loss), rel=1e-3)


def _log_probabilities(model: Any, row: Any, modules: list[Any]) -> torch.Tensor:
    with ExitStack() as stack, torch.no_grad():
        for module, delta in modules:
            stack.enter_context(adding(module, row.subject_last, delta))
        return F.log_softmax(model(input_ids=torch.tensor([row.ids])).logits[0], dim=-1)


def _output(model: Any, module: Any, fact: Any) -> torch.Tensor:
    """The output of a projection at the subject's last token of the plain prompt."""
    taken: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda m, args, output: taken.append(output))
    with torch.no_grad():
        model(input_ids=torch.tensor([fact.rows[0].ids]))
    handle.remove()
    return taken[0].reshape(len(fact.rows[0].ids), -1)[fact.rows[0].subject_last]


@pytest.mark.parametrize("editor", ["pmet", "rome"])
def test_an_edit_leads_to_the_value(base: LoadedModel, editor: str) -> None:
    """One layer, hardly any weight on old keys: the projection outputs v at the place of k."""
    context = context_of(base)
    context.facts = context.facts[:1]
    if editor == "pmet":
        low = {**LOW, "layers": [1], "moment_weight": 1e-4}
        hparams: Any = PmetHParams.model_validate({"low": low, "n_steps": 4})
    else:
        hparams = RomeHParams(layer=1, n_steps=4)
        context.facts = [type(fact)(fact.rows[:1], fact.kl) for fact in context.facts]
    outcome = run(context, hparams, editor)
    rows = [fact.rows[:1] for fact in context.facts]
    reached = RegionReader(context.view, rows, "subject_last", 1, at_projection=True).states()
    assert outcome.values is not None
    off = (reached - outcome.values.low).norm()
    assert off < 0.3 * outcome.values.delta_low.norm()
    if editor == "rome":
        assert off < 1e-3 * outcome.values.delta_low.norm()


def test_rome_copies_the_model_in_bfloat16_once_for_all_facts(
    gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the matrix that a fact has changed is rounded again: the same bits as a new copy."""
    made, new = list[Twin](), Twin._new

    def counted(self: Twin) -> ModelView:
        made.append(self)
        return new(self)

    monkeypatch.setattr(Twin, "_new", counted)
    hparams = RomeHParams(layer=1, n_steps=4, compute_dtype="bfloat16")
    once = run(context_of(gptj), hparams, "rome").delta.updates
    assert len(made) == 1

    def apart(context: EditContext, facts: Sequence[FactTokens], monitor: Monitor) -> EditContext:
        return replace(context, facts=facts, values=None, monitor=monitor)

    monkeypatch.setattr(EditContext, "part", apart)
    context = context_of(gptj)
    each = run(context, hparams, "rome").delta.updates
    assert len(made) == 1 + len(context.facts) > 2
    [name] = once
    assert torch.equal(once[name].matrix(), each[name].matrix())


def test_rome_refuses_a_layer_that_the_model_lacks() -> None:
    with pytest.raises(InvalidHParams) as caught:
        validate_hparams(RomeHParams, {"layer": 9}, 9)
    assert [problem.pointer for problem in caught.value.problems] == ["/hparams/layer"]


def attention_out(model: Any, layer: int) -> Any:
    """The attention's output projection, found without the library."""
    block = tiny.blocks(model)[layer]
    attention = next(
        getattr(block, name) for name in ("attn", "self_attn", "attention") if hasattr(block, name)
    )
    names = ("out_proj", "c_proj", "o_proj", "dense")
    return next(getattr(attention, name) for name in names if hasattr(attention, name))


def at_prediction(model: Any, module: Any, row: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The input and output of a projection at the last token of a row's prompt."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = module.register_forward_hook(lambda m, args, output: seen.append((args[0], output)))
    with torch.no_grad():
        model(input_ids=torch.tensor([row.ids]))
    handle.remove()
    given, gives = (part.reshape(len(row.ids), -1)[row.prediction].double() for part in seen[0])
    return given, gives


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_the_attention_projection_is_written_in_place_of_the_mlps(family: str) -> None:
    """W'k = v at its place; nothing else changes, and the original stays as it was."""
    model = tiny.random_model(family)
    before = {name: p.clone() for name, p in model.model.named_parameters()}
    places = [AttentionOut(2)]
    context = context_of(model)
    context.facts = [FactTokens(fact.rows[:1], fact.kl) for fact in context.facts[:1]]
    assert context.moments is not None
    context.moments.ensure(places)
    high = {"layers": [2], "clamp": 1.0, "moment_weight": 1e-5, "projection": "attention"}
    outcome = run(context, jeep(optimise="high", high=high))
    (name,) = outcome.delta.updates
    assert model.model.get_parameter(name) is attention_out(model.model, 2).weight
    assert all(torch.equal(before[n], p) for n, p in model.model.named_parameters())
    assert outcome.values is not None
    assert outcome.values.high is not None
    rows = [fact.rows for fact in context.facts]
    plain = ModelView(model)
    gap = outcome.values.high - RegionReader(plain, rows, "prediction", 2).states()
    wanted = RegionReader(plain, rows, "prediction", 2).residuals_at(places[0], gap)[0].double()
    key, old = at_prediction(model.model, attention_out(model.model, 2), rows[0][0])
    same_key, new = at_prediction(
        context.view.model, attention_out(context.view.model, 2), rows[0][0]
    )
    assert torch.equal(key, same_key)
    assert (new - old - wanted).norm() < 1e-2 * wanted.norm()
    if family == "gptj":  # side by side: what the attention adds is what the block adds
        reached = RegionReader(context.view, rows, "prediction", 2).states()
        assert (reached - outcome.values.high).norm() < 1e-2 * gap.norm()


def test_moments_of_both_projections_come_from_one_pass(
    base: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[list[Place]] = []

    def counted(model: LoadedModel, batches: Any, start: Any, *rest: Any, **named: Any) -> Any:
        passes.append(list(start.keys))
        return accumulate(model, batches, start, *rest, **named)

    monkeypatch.setattr("jeep_core.moments.cache.accumulate", counted)
    moments = Moments(base, tiny.TEXTS, 10**6, folder=tmp_path)
    places: list[Place] = [AttentionOut(1), 1, AttentionOut(2)]
    moments.ensure(places)
    assert passes == [[1, AttentionOut(1), AttentionOut(2)]]
    assert len({moments.key(place) for place in [*places, 2]}) == 4
    keys: list[torch.Tensor] = []
    handle = attention_out(base.model, 1).register_forward_pre_hook(
        lambda m, args: keys.append(args[0].reshape(-1, args[0].shape[-1]).double())
    )
    with torch.no_grad():
        for text in tiny.TEXTS:
            ids = base.tokenizer.encode(text).ids[: tiny.POSITIONS]
            base.model(input_ids=torch.tensor([ids]))
    handle.remove()
    every = torch.cat(keys)
    expected = every.T @ every / len(every)
    off = (moments.factor(AttentionOut(1)).moment - expected).norm()
    assert off < 1e-4 * expected.norm()
    again = Moments(base, tiny.TEXTS, 10**6, folder=tmp_path)
    again.ensure(places)
    assert len(passes) == 1
    assert torch.equal(again.factor(places[0]).moment, moments.factor(places[0]).moment)


def test_kept_keys_of_the_two_projections_do_not_meet(gptj: LoadedModel) -> None:
    """An edit of the one after an edit of the other; the same one's keys are preserved."""
    context = context_of(gptj)
    assert context.moments is not None
    context.moments.ensure([AttentionOut(2)])
    mlp = run(context, jeep())
    high = {**HIGH, "projection": "attention"}
    second = run(replace(context, previous_keys=dict(mlp.keys)), jeep(high=high))
    assert set(second.keys) == {("low", 0), ("low", 1), ("high.attention", 2)}
    kept = {**mlp.keys, **second.keys}
    keeping, not_keeping = (
        run(replace(context_of(gptj), moments=context.moments, previous_keys=p), jeep(high=high))
        for p in (kept, {})
    )
    name = gptj.family.weight_name(AttentionOut(2))
    ours, theirs = (r.delta.updates[name].matrix() for r in (keeping, not_keeping))
    old = second.keys["high.attention", 2].double()
    assert (ours @ old.T).norm() < (theirs @ old.T).norm()


@pytest.mark.parametrize(
    "wrong", [{"high": {**HIGH, "projection": "both"}}, {"low": {**LOW, "projection": "attention"}}]
)
def test_the_projection_is_a_switch_of_the_high_region(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidHParams, match="projection"):
        validate_hparams(JeepHParams, {"low": LOW, "high": HIGH, **wrong}, 9)


def factor_with_null_space() -> MomentFactor:
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))
    values = torch.tensor([1e-4] * 5 + [1.0, 2, 3, 4, 5, 6, 7], dtype=torch.float64)
    return MomentFactor(basis @ torch.diag(values) @ basis.T, "layer 3")


def test_an_update_in_the_null_space_equals_the_published_formula() -> None:
    """Δ = R Kᵀ P (K_p K_pᵀ P + K Kᵀ P + ridge I)⁻¹, and does nothing to what C sees."""
    factor = factor_with_null_space()
    k, r, p = (torch.randn(n, m, dtype=torch.float64) for n, m in ((3, 12), (3, 4), (2, 12)))
    found = solve_in_null_space(k, r, factor, 0.01, 10.0, p)
    update = found.left @ found.right.T
    vectors = torch.linalg.eigh(factor.moment).eigenvectors
    null, seen = vectors[:, :5], vectors[:, 5:]
    projection = null @ null.T
    inner = (p.T @ p + k.T @ k) @ projection + 10.0 * torch.eye(12, dtype=torch.float64)
    expected = r.T @ k @ projection @ torch.linalg.inv(inner)
    assert torch.allclose(update, expected, atol=1e-10)
    assert (update @ seen).abs().max() < 1e-10 < (update @ null).abs().max()


def test_without_a_null_space_there_is_a_clear_error() -> None:
    factor = MomentFactor(torch.eye(6, dtype=torch.float64), "layer 3")
    with pytest.raises(NumericalError, match="layer 3: no eigenvalue"):
        solve_in_null_space(torch.ones(1, 6), torch.ones(1, 2), factor, 0.5, 1.0)


def test_alphaedit_writes_what_the_switch_of_memit_writes(gptj: LoadedModel) -> None:
    low = {**LOW, "layers": [1], "null_space": 5.0, "moment_weight": 0.1}
    context, other = context_of(gptj), context_of(gptj)
    hparams = AlphaEditHParams.model_validate({"low": low, "n_steps": 3})
    outcome = run(context, hparams, "alphaedit")
    memit = run(other, hparams, "memit")
    name = gptj.family.weight_name(1)
    update = outcome.delta.updates[name].matrix()
    assert torch.equal(update, memit.delta.updates[name].matrix())
    values, vectors = torch.linalg.eigh(context.moments.factor(1).moment)
    assert 0 < int((values >= 5).sum()) < len(values)
    assert (update @ vectors[:, values >= 5]).norm() < 1e-5 * update.norm()


def test_alphaedit_needs_its_threshold() -> None:
    with pytest.raises(InvalidHParams, match="null_space"):
        validate_hparams(AlphaEditHParams, {"low": LOW}, 9)
