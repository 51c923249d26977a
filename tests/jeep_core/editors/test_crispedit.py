"""CrispEdit: projected gradients against the plain formula, and earlier edits in the moments."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.library import tiny

from jeep_core.decoding.generation import score
from jeep_core.editing import edit, tokenize
from jeep_core.editors.base import EditContext
from jeep_core.editors.crispedit.editor import CrispEdit, _compressed, _moment
from jeep_core.editors.crispedit.hparams import CrispEditHParams
from jeep_core.editors.fine_tuning.passes import rows_of
from jeep_core.errors import NumericalError
from jeep_core.models.loading import LoadedModel, tensor_bytes
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.spec.facts import Fact
from jeep_core.spec.matrices import GradientOf
from jeep_core.updates.curvature import flat_directions
from jeep_core.values.gradient_pairs import gradient_pairs, read, shifted

FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("São Paulo", "People who live in {} are at home in", "North Norway"),
    Fact("東京", "The capital of Japan is {}", "old"),
)
HPARAMS: dict[str, Any] = {
    "layers": [1],
    "n_passes": 5,
    "learning_rate": 0.01,
    "stop_loss": 1e-6,
    "energy": 0.8,
}


@pytest.fixture(scope="module", params=tiny.ALL_FAMILIES)
def family(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny.random_model(request.param)


def plain_mask(a: Any, b: Any, energy: float) -> tuple[Any, Any, Any]:
    """U_a, U_b and M by a loop over all pairs of eigenvalues, the largest first."""
    s_a, u_a = torch.linalg.eigh(a.double())
    s_b, u_b = torch.linalg.eigh(b.double())
    pairs = sorted(
        ((float(y * x), i, j) for i, y in enumerate(s_b) for j, x in enumerate(s_a)), reverse=True
    )
    kept, sum_so_far, total = torch.ones(len(s_b), len(s_a)), 0.0, sum(p for p, _, _ in pairs)
    for product, i, j in pairs:
        kept[i, j] = 0
        sum_so_far += product
        if sum_so_far >= energy * total:
            break
    return u_a, u_b, kept


@pytest.mark.parametrize("energy", [0.3, 0.8, 0.99])
def test_directions_that_hold_the_energy_are_left_out(energy: float) -> None:
    torch.manual_seed(0)
    x, y, gradient = torch.randn(40, 7), torch.randn(40, 5), torch.randn(5, 7)
    a, b = x.T @ x / 40, y.T @ y / 40
    u_a, u_b, kept = plain_mask(a, b, energy)
    flat = flat_directions(a, b, energy, "layer 1")
    assert torch.equal(flat.kept, kept)
    expected = u_b @ ((u_b.T @ gradient.double() @ u_a) * kept) @ u_a.T
    found = flat(gradient)
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert torch.allclose(flat(found), found, atol=1e-5), "a projection"
    for broken, message in ((a * torch.nan, "not finite"), (a * 0, "is zero")):
        with pytest.raises(NumericalError, match=rf"^layer 4: .*{message}"):
            flat_directions(broken, b, energy, "layer 4")


def test_every_gradient_is_projected_before_adam(family: LoadedModel) -> None:
    moments = Moments(family, tiny.TEXTS)
    result = edit(family, FACTS, "crispedit", hparams=HPARAMS, moments=moments)
    [name] = result.delta.updates
    a, b = (moments.factor(place).moment for place in (1, GradientOf(1)))
    u_a, u_b, kept = plain_mask(a, b, 0.8)
    assert 0 < float(kept.sum()) < kept.numel()
    rows = [row for fact in tokenize(family, FACTS, [""]) for row in rows_of(family, fact, True)]
    view = ModelView(family)
    delta = torch.zeros(family.hidden_size, family.mlp_size, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=0.01)
    for _ in range(5):
        with shifted(view, {1: delta}):
            loss = read(view, rows).nll(len(rows)).mean()
        (gradient,) = torch.autograd.grad(loss, [delta])
        inside = (u_b.T @ gradient.double() @ u_a) * kept
        delta.grad = (u_b @ inside @ u_a.T).float()
        adam.step()
    found, expected = result.delta.updates[name].matrix(), delta.detach().double()
    # Adam's first step is the sign of a number that may be nearly zero
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_new_answers_become_more_probable(base: LoadedModel) -> None:
    given = {"layers": [1, 2], "n_passes": 25, "learning_rate": 0.02, "energy": 0.5}
    moments = Moments(base, tiny.TEXTS)
    result = edit(base, FACTS, "crispedit", hparams=given, moments=moments)
    pairs = [(fact.text, fact.target_new) for fact in FACTS]
    for old, new in zip(score(ModelView(base), pairs), score(result.view, pairs), strict=True):
        assert new.mean > old.mean + 0.5


def test_earlier_edits_count_in_the_moments(gptj: LoadedModel) -> None:
    """By their tokens: the second batch is projected by text and the first one's answers."""
    moments = Moments(gptj, tiny.TEXTS)
    first = edit(gptj, FACTS[:2], "crispedit", hparams=HPARAMS, moments=moments)
    rows = [row for fact in tokenize(gptj, FACTS[:2], [""]) for row in rows_of(gptj, fact, True)]
    inputs, gradients = [], []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        u, delta = gradient_pairs(ModelView(gptj), [row], [1], answers=True)[1]
        inputs.append(u)
        gradients.append(delta * row.n_target)
    expected = {"1": torch.cat(inputs), "1.gradient": torch.cat(gradients)}
    for place, part in expected.items():
        kept = first.state[f"rows.{place}"]
        assert torch.allclose(kept.T @ kept, part.T @ part, rtol=1e-4, atol=1e-6)
        assert int(first.state[f"count.{place}"]) == len(part)

    def second(weight: float, states: Any) -> torch.Tensor:
        given = {**HPARAMS, "previous_weight": weight}
        facts = tokenize(gptj, FACTS[2:], [""])
        context = EditContext(copy.copy(first.view).fork(), facts, moments, states=states)
        outcome = CrispEdit().run(context, CrispEditHParams.model_validate(given))
        [update] = outcome.delta.updates.values()
        return update.matrix()

    alone, ignored = second(1.0, []), second(0.0, [first.state])
    assert torch.equal(alone, ignored)
    heavy = second(1e4, [first.state])
    assert not torch.allclose(alone, heavy)
    assert torch.equal(heavy, second(1e4, [first.state])), "the same bits again"
    context = EditContext(first.view, [], moments, states=[first.state, first.state])
    for place in (1, GradientOf(1)):
        text, part, n = moments.factor(place).moment, expected[str(place)], moments.tokens(place)
        whole = text * n + 2 * 7.0 * (part.T @ part).double()
        found = _moment(context, place, CrispEditHParams(layers=(1,), previous_weight=7.0))
        assert torch.allclose(found, whole / (n + 2 * 7.0 * len(part)), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("count", [3, 12, 50])
def test_states_have_no_more_rows_than_coordinates(count: int) -> None:
    rows = torch.randn(count, 12, generator=torch.Generator().manual_seed(0))
    kept = _compressed(rows)
    assert len(kept) == min(count, 12)
    assert torch.allclose(kept.T @ kept, rows.T @ rows, atol=1e-4)
    if count <= 12:
        assert tensor_bytes(kept) == tensor_bytes(rows)
