"""An edit that may be made to wait comes to the same end."""

from __future__ import annotations

import torch
from support.library import tiny

from jeep_core.decoding.generation import Sampling, generate
from jeep_core.editing import edit
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.monitor import NOTHING, Monitor

FACTS = [{"subject": "Paris", "prompt": "{} is a city in the country of", "target_new": "Peru"}]
HPARAMS = {
    "low": {"layers": [1], "clamp": 1.0, "weight_decay": 0.1, "moment_weight": 10.0},
    "n_steps": 4,
    "learning_rate": 0.1,
    "kl_weight": 0.06,
}


def matrices(base: LoadedModel) -> int:
    """Matrices in one block, found without the library."""
    return sum(p.dim() == 2 for p in tiny.blocks(base.model)[0].parameters())


def test_every_matrix_of_a_forward_pass_is_a_pause(base: LoadedModel) -> None:
    view, count = ModelView(base), [0]

    def pause() -> None:
        count[0] += 1

    with giving_way(view, Monitor(give_way=pause)):
        view.model(input_ids=torch.tensor([[1, 2, 3]]))
    assert count[0] == 4 * matrices(base)
    view.model(input_ids=torch.tensor([[1, 2, 3]]))
    assert count[0] == 4 * matrices(base), "the hooks are gone"


def test_the_backward_pass_pauses_too(base: LoadedModel) -> None:
    view, calls = ModelView(base), list[bool]()
    backwards = False
    with giving_way(view, Monitor(give_way=lambda: calls.append(backwards))):
        embeddings = torch.randn(1, 3, 32, requires_grad=True)
        loss = view.model(inputs_embeds=embeddings).logits.sum()
        backwards = True
        loss.backward()
    assert calls.count(False) == 4 * matrices(base)
    assert calls.count(True) == 4 * matrices(base)


def test_generation_pauses_at_every_matrix(base: LoadedModel) -> None:
    view, count = ModelView(base), [0]

    def pause() -> None:
        count[0] += 1

    with giving_way(view, Monitor(give_way=pause)):
        [result] = generate(view, ["I"], Sampling(3))
    assert count[0] >= len(result.tokens) * 4 * matrices(base)


def test_an_edit_that_pauses_gives_the_same_bytes(gptj: LoadedModel) -> None:
    moments = Moments(gptj, tiny.TEXTS, samples=400)
    count = [0]

    def pause() -> None:
        count[0] += 1

    results = [
        edit(gptj, FACTS, "memit", hparams=HPARAMS, prefixes=[""], moments=moments, monitor=m)
        for m in (NOTHING, Monitor(give_way=pause))
    ]
    assert count[0] > 0
    one, other = (result.delta.tensors() for result in results)
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
