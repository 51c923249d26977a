"""UltraEdit against the plain formulas, and what it keeps from batch to batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.library import tiny
from torch.nn import functional as F

from jeep_core.decoding.generation import score
from jeep_core.editing import edit, tokenize
from jeep_core.editors.ultraedit import editor, step
from jeep_core.editors.ultraedit.hparams import UltraEditHParams
from jeep_core.errors import Cancelled, JeepError, NumericalError
from jeep_core.models.loading import LoadedModel, tensor_bytes
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor, stop_if
from jeep_core.probe.defaults.from_record import by_depths
from jeep_core.spec.facts import Fact
from jeep_core.spec.positions import PromptTokens
from jeep_core.updates.ridge import ridge_inverse
from jeep_core.updates.standardise import RunningMoments
from jeep_core.values.gradient_pairs import gradient_pairs, read

FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("São Paulo", "People who live in {} are at home in", "North Norway"),
    Fact("東京", "The capital of Japan is {}", "old"),
    Fact("Oslo", "{} lies in", "Japan"),
)
HPARAMS = {"layers": [1, 2], "step_size": 0.02}


def plain_pairs(model: Any, rows: Sequence[PromptTokens], layer: int) -> tuple[Any, Any]:
    """h and g of the tokens that predict an answer's, in float64, row by row."""
    hs, gs = [], []
    for row in rows:
        seen: dict[str, Any] = {}

        def hook(module: Any, args: Any, output: Any, seen: dict[str, Any] = seen) -> Any:
            seen["h"], seen["out"] = args[0].detach(), output.detach().requires_grad_()
            return seen["out"]

        handle = tiny.mlp_out(model, layer).register_forward_hook(hook)
        logits = model(input_ids=torch.tensor([row.ids])).logits[0]
        handle.remove()
        places = slice(row.prediction, row.prediction + row.n_target)
        loss = F.cross_entropy(logits[places], torch.tensor(row.ids[row.prediction + 1 :]))
        (gradient,) = torch.autograd.grad(loss, [seen["out"]])
        hs.append(seen["h"].reshape(len(row.ids), -1)[places].double())
        gs.append(gradient.reshape(len(row.ids), -1)[places].double())
    return torch.cat(hs), torch.cat(gs)


def plain_update(h: Any, g: Any, rows: Any, step_size: float) -> torch.Tensor:
    """Δ (out, in) by the formulas, in the coordinates' form of the Gram matrix.

    ``rows``: [h; g] of all tokens so far, over which means and deviations are taken at once.
    """
    mean, deviation = rows.mean(dim=0), rows.std(dim=0)
    split = h.shape[1]
    h_hat = (h - mean[:split]) / deviation[:split]
    g_hat = (g - mean[split:]) / deviation[split:]
    shifts = -step_size * (h_hat**2).sum(dim=1, keepdim=True) * g_hat
    gram = h.T @ h + torch.eye(split, dtype=torch.float64)
    return torch.linalg.solve(gram, h.T @ shifts).T


def rows_of(base: LoadedModel, facts: Sequence[Fact]) -> list[PromptTokens]:
    return [fact.rows[0] for fact in tokenize(base, facts, [""])]


def near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).norm() <= 1e-3 * expected.norm())


@pytest.fixture(scope="module", params=tiny.ALL_FAMILIES)
def family(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny.random_model(request.param)


def test_two_batches_equal_the_plain_formulas(family: LoadedModel) -> None:
    """The second batch is standardised by the tokens of both."""
    one, two = FACTS[:2], FACTS[2:]
    first = edit(family, one, "ultraedit", hparams=HPARAMS)
    second = edit(first.view, two, "ultraedit", hparams=HPARAMS, states=[first.state])
    edited = copy.deepcopy(first.view.model)
    for layer in HPARAMS["layers"]:
        name = family.family.weight_name(layer)
        h, g = plain_pairs(copy.deepcopy(family.model), rows_of(family, one), layer)
        before = torch.cat([h, g], dim=1)
        expected = plain_update(h, g, before, 0.02)
        assert near(first.delta.updates[name].matrix(), expected)
        h, g = plain_pairs(edited, rows_of(family, two), layer)
        both = torch.cat([before, torch.cat([h, g], dim=1)])
        expected = plain_update(h, g, both, 0.02)
        assert near(second.delta.updates[name].matrix(), expected)
        assert int(second.state[f"count.{layer}"]) == len(both)
        assert near(second.state[f"mean.{layer}"], both.mean(dim=0))
        squares = (both - both.mean(dim=0)).square().sum(dim=0)
        assert near(second.state[f"squares.{layer}"], squares)


def test_new_answers_become_more_probable(base: LoadedModel) -> None:
    before = ModelView(base).weights_sha256()
    pairs = [(fact.text, fact.target_new) for fact in FACTS]
    result = edit(base, FACTS, "ultraedit", hparams={"layers": [1, 2, 3], "step_size": 0.03})
    old, new = score(ModelView(base), pairs), score(result.view, pairs)
    assert sum(n.mean for n in new) > sum(o.mean for o in old) + 0.3
    assert ModelView(base).weights_sha256() == before
    assert [layer.layer for layer in result.layers] == [1, 2, 3]
    assert result.values is None


def test_the_same_batches_give_the_same_bytes(gptj: LoadedModel) -> None:
    """From the state that a version holds, whatever was edited in between."""

    def run(states: list[Any]) -> Any:
        return edit(gptj, FACTS[:2], "ultraedit", hparams=HPARAMS, states=states)

    first = run([])
    assert run([]).delta.tensors().keys() == first.delta.tensors().keys()
    other = edit(gptj, FACTS[2:], "ultraedit", hparams=HPARAMS, states=[first.state])
    again, later = run([first.state]), run([first.state, other.state])
    once_more = run([first.state])
    for name, tensor in {**again.delta.tensors(), **again.state}.items():
        kept = {**once_more.delta.tensors(), **once_more.state}[name]
        assert tensor_bytes(tensor) == tensor_bytes(kept)
    [name] = [n for n in again.delta.tensors() if n.startswith("u.") and ".1." in n]
    assert not torch.equal(again.delta.tensors()[name], later.delta.tensors()[name])
    assert int(later.state["count.1"]) == int(again.state["count.1"]) + int(
        other.state["count.1"]
    ) - int(first.state["count.1"])


def test_a_layer_that_an_edit_left_out_keeps_its_state(gptj: LoadedModel) -> None:
    first = edit(gptj, FACTS, "ultraedit", hparams=HPARAMS)
    second = edit(
        first.view, FACTS, "ultraedit", hparams={**HPARAMS, "layers": [2]}, states=[first.state]
    )
    assert set(second.state) == {"count.2", "mean.2", "squares.2"}
    states = [first.state, second.state]
    third = edit(second.view, FACTS, "ultraedit", hparams=HPARAMS, states=states)
    counts = [int(third.state[f"count.{layer}"]) for layer in (1, 2)]
    assert counts == [2 * int(first.state["count.1"]), 3 * int(first.state["count.2"])]


def test_one_token_of_an_answer_cannot_be_compared(gptj: LoadedModel) -> None:
    alone = [Fact("Oslo", "{} lies in", "a")]
    assert rows_of(gptj, alone)[0].n_target == 1
    with pytest.raises(JeepError, match=r"only one: edit more facts at once, or raise n_prefixes"):
        edit(gptj, alone, "ultraedit", hparams=HPARAMS)
    more = edit(gptj, alone, "ultraedit", hparams={**HPARAMS, "n_prefixes": 3})
    assert int(more.state["count.1"]) == 3


@pytest.mark.parametrize("rows", [3, 12, 40])
def test_both_gram_matrices_give_the_same_inverse(rows: int) -> None:
    torch.manual_seed(0)
    keys = torch.randn(rows, 12)
    k = keys.double()
    expected = k.T @ torch.linalg.inv(k @ k.T + 0.5 * torch.eye(rows, dtype=torch.float64))
    assert torch.allclose(ridge_inverse(keys, 0.5, "layer 1"), expected, atol=1e-10)
    with pytest.raises(NumericalError, match=r"^layer 3: "):
        ridge_inverse(keys * torch.nan, 0.5, "layer 3")


def test_running_moments_are_those_of_all_rows() -> None:
    torch.manual_seed(1)
    rows = 3 + 2 * torch.randn(50, 6, dtype=torch.float64)
    rows[:, 2] = 7.0
    running = RunningMoments.empty(6, rows.device)
    for part in rows.split([1, 0, 19, 30]):
        running = running.extended(part)
    assert running.count == 50
    expected = (rows - rows.mean(dim=0)) / rows.std(dim=0)
    found = running.standardised(rows)
    others = [0, 1, 3, 4, 5]
    assert torch.allclose(found[:, others], expected[:, others], atol=1e-10)
    assert not found[:, 2].any(), "a coordinate that never differs tells nothing"


def test_rounding_of_a_mean_is_no_deviation() -> None:
    """Rows that are an ulp away from their mean do not differ; float32 neighbours do."""
    value = torch.tensor(0.1)
    near = torch.nextafter(value, torch.tensor(1.0))
    rows = torch.stack([value.repeat(1000), torch.cat([near[None], value.repeat(999)])], dim=1)
    exact = RunningMoments.empty(2, rows.device).extended(rows)
    ulp = torch.nextafter(exact.mean, torch.ones(2, dtype=torch.float64)) - exact.mean
    off = exact.mean + ulp
    squares = exact.squares + 1000 * ulp.square()
    found = RunningMoments(1000, off, squares).standardised(rows)
    assert not found[:, 0].any()
    assert torch.allclose(found[:, 1], exact.standardised(rows)[:, 1], rtol=1e-4)
    assert float(found[0, 1]) > 30


def test_pairs_of_answers_are_a_part_of_all_pairs(base: LoadedModel) -> None:
    view, rows = ModelView(base), rows_of(base, FACTS)
    whole, answers = (gradient_pairs(view, rows, [1], answers=a)[1] for a in (False, True))
    places, at = [], 0
    for row in rows:
        places += [at + row.prediction + i for i in range(row.n_target)]
        at += len(row.ids) - 1
    for all_of_them, part in zip(whole, answers, strict=True):
        assert torch.equal(all_of_them[places], part)


@pytest.mark.parametrize("phase", ["gradients", "write"])
def test_it_can_be_cancelled(gptj: LoadedModel, phase: str) -> None:
    seen: list[str] = []
    monitor = Monitor(lambda name, *_: seen.append(name), stop_if(lambda: phase in seen))
    with pytest.raises(Cancelled):
        edit(gptj, FACTS, "ultraedit", hparams=HPARAMS, monitor=monitor)
    assert seen[-1] == phase


class TestSteps:
    """``target_probability``: the step is found on the batch's own facts."""

    def edited(self, base: LoadedModel, **more: Any) -> Any:
        return edit(base, FACTS, "ultraedit", hparams={"layers": [1, 2], **more})

    def probability(self, view: ModelView) -> float:
        rows = [row for fact in tokenize(view.base, FACTS, [""]) for row in fact.all_rows]
        return float(read(view, rows).nll(len(rows)).neg().exp().mean())

    def size(self, base: LoadedModel, found: Any) -> float:
        """η, by the update with an η of 1."""
        name = base.family.weight_name(1)
        one = self.edited(base, step_size=1.0).delta.updates[name].matrix()
        updated: torch.Tensor = found.delta.updates[name].matrix()
        return float((updated * one).sum() / one.square().sum())

    def test_answers_are_as_probable_as_asked_and_the_step_is_near_the_smallest(
        self, base: LoadedModel
    ) -> None:
        aim = 3 * self.probability(ModelView(base))
        found = self.edited(base, target_probability=aim)
        size = self.size(base, found)
        assert self.probability(found.view) >= aim
        assert self.probability(self.edited(base, step_size=size / 1.3).view) < aim
        fixed = self.edited(base, step_size=size)
        for name, update in fixed.delta.updates.items():
            assert near(found.delta.updates[name].matrix(), update.matrix())

    def test_without_it_the_step_is_the_one_that_is_given(self, gptj: LoadedModel) -> None:
        found = self.edited(gptj, step_size=0.02)
        assert self.size(gptj, found) == pytest.approx(0.02)

    @pytest.mark.parametrize(
        ("reached", "sizes", "found"),
        [
            # up: the first step that reaches it, then two bisections by ratio
            ("0.1 0.3 0.9 0.8 0.9", (1, 2, 4, 2**1.5, 2**1.75), 2**1.75),
            # down, and the last step that reaches it
            ("0.9 0.9 0.5 0.9 0.8", (1, 1 / 2, 1 / 4, 2**-1.5, 2**-1.75), 2**-1.5),
            # none does: as far as a doubling gains something
            ("0.1 0.2 0.21", (1, 2, 4), 2),
            ("0.1 0.2 0.3 0.4 0.5 0.6", (1, 2, 4, 8, 16, 32), 32),
            # the first one does harm alone: down by fours, or by halves if it is better than none
            ("0.0 0.0 0.3 0.2 0.1", (1, 1 / 4, 1 / 16, 1 / 8, 1 / 32), 1 / 16),
            ("0.1 0.05 0.3 0.5 0.4", (1, 2, 1 / 2, 1 / 4, 1 / 8), 1 / 4),
            # never small enough
            ("0.9 0.9 0.9 0.9 0.9 0.9 0.9 0.9", None, 2**-5.75),
            # nothing that is tried is better than no step
            ("0.0 0.0 0.0 0.0 0.0 0.0", None, 0),
        ],
    )
    def test_a_step_is_looked_for(
        self,
        gptj: LoadedModel,
        monkeypatch: pytest.MonkeyPatch,
        reached: str,
        sizes: Sequence[float] | None,
        found: float,
    ) -> None:
        answers = iter(float(one) for one in reached.split())
        asked: list[float] = []
        progress: list[int] = []

        def probability(_: Any, size: float) -> float:
            asked.append(size)
            return next(answers)

        monkeypatch.setattr(step._Trial, "probability", probability)
        monitor = Monitor(lambda phase, done, _: progress.append(done))
        hparams = {"layers": [1, 2], "target_probability": 0.85}
        edited = edit(gptj, FACTS, "ultraedit", hparams=hparams, monitor=monitor)
        size = self.size(gptj, edited)
        if sizes is not None:
            assert [one / asked[0] for one in asked] == pytest.approx(sizes)
        assert next(answers, None) is None
        assert len(asked) <= UltraEditHParams(layers=(1,), target_probability=0.5).tries
        assert size / asked[0] == pytest.approx(found)

    def test_what_is_no_number_is_not_probable(
        self, gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Steps of the first sizes lead out of the model's type."""
        monkeypatch.setattr(step, "FIRST_DROP", 1e30)
        monkeypatch.setattr(step, "FAR", 1e10)
        aim = 3 * self.probability(ModelView(gptj))
        found = self.edited(gptj, target_probability=aim)
        assert self.probability(found.view) >= aim

    def test_answers_that_are_probable_already_are_left_alone(self, gptj: LoadedModel) -> None:
        found = self.edited(gptj, target_probability=0.5 * self.least(ModelView(gptj), FACTS))
        assert all(float(one.matrix().norm()) == 0 for one in found.delta.updates.values())

    def test_answers_that_are_not_are_asked_alone(
        self, gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where a batch has so many others that a sample of it would miss them."""
        view = ModelView(gptj)
        aim = 1.5 * self.least(view, FACTS)
        below = [one for one in FACTS if self.least(view, [one]) < aim]
        assert 0 < len(below) < len(FACTS)
        monkeypatch.setattr(step, "TRIED_ROWS", len(below))
        asked: list[tuple[int, ...]] = []
        enter = step.enter

        def entered(view: ModelView, rows: Sequence[Any], block: int) -> Any:
            asked.extend(row.ids for row in rows)
            assert block == 1, "what lies below the lowest layer is run once"
            return enter(view, rows, block)

        monkeypatch.setattr(step, "enter", entered)
        found = self.edited(gptj, target_probability=aim)
        rows = [row for fact in tokenize(gptj, below, [""]) for row in fact.all_rows]
        assert sorted(asked) == sorted(row.ids for row in rows)
        assert self.least(found.view, below[:1]) > self.least(view, below[:1])

    def least(self, view: ModelView, facts: Sequence[Fact]) -> float:
        """The smallest probability of an answer."""
        rows = [row for fact in tokenize(view.base, facts, [""]) for row in fact.all_rows]
        return float(read(view, rows).nll(len(rows)).neg().exp().min())

    @pytest.mark.parametrize("n", [3, 40])
    def test_what_a_search_adds_is_what_the_update_adds(self, gptj: LoadedModel, n: int) -> None:
        torch.manual_seed(0)
        parts = (n, 1), (n, 32), (n, 32), (128, n)
        direction = step.Direction(*(torch.randn(*p, dtype=torch.float64) for p in parts))
        factors = direction.factors(torch.float32)
        # two factors of few tokens, one matrix of many
        assert len(factors) == (2 if n == 3 else 1)
        view, ids = ModelView(gptj), torch.arange(5)[None]
        with step.moved(view, {2: factors}, 1e-4):
            there = view.model(input_ids=ids).logits
        view.update(gptj.family.weight_name(2), direction.update(1e-4))
        assert not torch.equal(there, ModelView(gptj).model(input_ids=ids).logits)
        assert near(there, view.model(input_ids=ids).logits)

    def test_the_slope_is_how_the_loss_begins_to_fall(self, base: LoadedModel) -> None:
        rows = [row for fact in tokenize(base, FACTS, [""]) for row in fact.all_rows]
        view = ModelView(base)
        pairs = gradient_pairs(view, rows, [1], answers=True)[1]
        running = RunningMoments.empty(sum(part.shape[1] for part in pairs), pairs[0].device)
        direction = editor._direction(pairs, running.extended(torch.cat(pairs, dim=1)), "layer 1")
        losses = []
        size = 1e-3 / direction.slope
        for step_size in (size, -size):
            with step.moved(view, {1: direction.factors(torch.float32)}, step_size):
                losses.append(float(read(view, rows).nll(len(rows)).double().sum()))
        # outputs move by a little less than v: the system has a ridge
        assert losses[1] - losses[0] == pytest.approx(2e-3, rel=0.15)

    def test_a_search_asks_some_rows_of_many(
        self, gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(step, "TRIED_ROWS", 2)
        seen: list[int] = []
        enter = step.enter

        def entered(view: ModelView, rows: Sequence[Any], block: int) -> Any:
            seen.append(len(rows))
            return enter(view, rows, block)

        monkeypatch.setattr(step, "enter", entered)
        self.edited(gptj, target_probability=0.3)
        assert seen == [2]

    def test_rows_are_drawn_from_all_kinds_and_all_places(self) -> None:
        """A fact's rows lie beside one another: plainly, in a chat, plainly, …"""
        drawn = step._drawn(range(256))
        assert drawn == step._drawn(range(256))
        assert len(set(drawn)) == step.TRIED_ROWS
        chats = sum(one % 2 for one in drawn)
        assert 50 < chats < 78

    def test_products_in_bfloat16_find_nearly_the_same(self, base: LoadedModel) -> None:
        aim = 3 * self.probability(ModelView(base))
        ours = self.edited(base, target_probability=aim, compute_dtype="bfloat16")
        theirs = self.edited(base, target_probability=aim)
        assert self.probability(ours.view) == pytest.approx(self.probability(theirs.view), rel=0.3)
        for name, update in theirs.delta.updates.items():
            one, other = ours.delta.updates[name].matrix(), update.matrix()
            assert not torch.equal(one, other)
            assert float(torch.cosine_similarity(one.flatten(), other.flatten(), dim=0)) > 0.95

    def test_a_search_can_be_cancelled(self, gptj: LoadedModel) -> None:
        phases: list[str] = []
        monitor = Monitor(
            lambda phase, *_: phases.append(phase),
            stop_if(lambda: phases[-1:] == ["step size"]),
        )
        with pytest.raises(Cancelled):
            edit(
                gptj, FACTS, "ultraedit", monitor=monitor,
                hparams={"layers": [1, 2], "target_probability": 0.3},
            )  # fmt: skip
        assert "write" not in phases


@pytest.mark.parametrize("n_layers", [3, 4, 9, 12, 30, 80])
def test_a_model_without_a_preset_gets_layers_and_a_probability(n_layers: int) -> None:
    found = by_depths("ultraedit", n_layers, 64, {})
    assert isinstance(found, UltraEditHParams)
    assert found.target_probability is not None
    assert list(found.layers) == list(range(found.layers[0], found.layers[-1] + 1))
    assert found.layers[-1] < n_layers
