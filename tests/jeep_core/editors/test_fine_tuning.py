"""Fine-tuning in passes over all facts, against plain backward passes and Adam."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.library import tiny
from torch.nn import functional as F

from jeep_core.decoding.generation import complete, score
from jeep_core.editing import edit, tokenize
from jeep_core.editors.fine_tuning.passes import rows_of
from jeep_core.errors import Cancelled
from jeep_core.models.loading import LoadedModel
from jeep_core.models.special_tokens import ending_id
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor, stop_if
from jeep_core.spec.facts import Fact
from jeep_core.spec.positions import PromptTokens
from jeep_core.text.chat import ChatTemplate

FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("São Paulo", "People who live in {} are at home in", "North Norway"),
    Fact("東京", "The capital of Japan is {}", "old"),
)
TUNE = {"layers": [1, 2], "n_passes": 6, "learning_rate": 0.01, "stop_loss": 1e-6}


@pytest.fixture(scope="module", params=tiny.ALL_FAMILIES)
def family(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny.random_model(request.param)


def mean_loss(model: Any, rows: Sequence[PromptTokens]) -> torch.Tensor:
    losses = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids])).logits[0]
        places = slice(row.prediction, row.prediction + row.n_target)
        losses.append(F.cross_entropy(logits[places], torch.tensor(row.ids[row.prediction + 1 :])))
    return torch.stack(losses).mean()


def ended(base: LoadedModel, end: bool) -> list[PromptTokens]:
    return [row for fact in tokenize(base, FACTS, [""]) for row in rows_of(base, fact, end)]


@pytest.mark.parametrize("end", [True, False])
def test_all_facts_in_one_mini_batch_are_plain_adam(family: LoadedModel, end: bool) -> None:
    """Both layers at once, from Δ = 0, with the token that ends an answer or without."""
    hparams = {**TUNE, "end_of_text": end}
    model, rows = copy.deepcopy(family.model), ended(family, end)
    modules = [tiny.mlp_out(model, layer) for layer in TUNE["layers"]]  # type: ignore[union-attr]
    starts = [module.weight.data.clone() for module in modules]
    leaves = [torch.zeros_like(start).requires_grad_() for start in starts]
    for module in modules:
        del module.weight
    adam = torch.optim.Adam(leaves, lr=0.01)
    for _ in range(6):
        for module, start, leaf in zip(modules, starts, leaves, strict=True):
            module.weight = start + leaf
        adam.zero_grad()
        mean_loss(model, rows).backward()
        adam.step()
    result = edit(family, FACTS, "locft", hparams=hparams)
    for layer, leaf in zip(TUNE["layers"], leaves, strict=True):  # type: ignore[call-overload]
        found = result.delta.updates[family.family.weight_name(layer)].matrix()
        expected = leaf.detach().double()
        expected = expected.T if family.family.name == "GPT-2" else expected
        assert (found - expected).norm() < 2e-3 * expected.norm()


def test_answers_are_learned_with_their_end(base: LoadedModel) -> None:
    """The edited model writes the answer, then the token that ends it, and nothing more."""
    before = ModelView(base).weights_sha256()
    given = {"layers": [1, 2], "n_passes": 60, "learning_rate": 0.02}
    result = edit(base, FACTS, "locft", hparams=given)
    texts = [fact.text for fact in FACTS]
    written = [complete(result.view, text, 12).strip() for text in texts]
    assert written == [fact.target_new for fact in FACTS]
    assert ModelView(base).weights_sha256() == before
    assert result.values is None


def test_passes_end_when_the_mean_loss_is_small(gptj: LoadedModel) -> None:
    seen: list[tuple[int, int]] = []
    monitor = Monitor(lambda _, done, total: seen.append((done, total)))
    given = {"layers": [1, 2], "n_passes": 400, "learning_rate": 0.02, "stop_loss": 1.3}
    result = edit(gptj, FACTS, "locft", hparams=given, monitor=monitor)
    assert 3 < len(seen) < 200
    assert seen[-1] == (400, 400)
    pairs = [(fact.text, fact.target_new) for fact in FACTS]
    old, new = score(ModelView(gptj), pairs), score(result.view, pairs)
    assert min(one.mean for one in new) > -2.6 > max(one.mean for one in old)
    # one pass measures, steps, and ends
    once = edit(gptj, FACTS, "locft", hparams={**given, "stop_loss": 1e9}, monitor=monitor)
    largest = [float(one.matrix().abs().max()) for one in once.delta.updates.values()]
    assert largest == pytest.approx([0.02, 0.02], rel=1e-3)


def test_the_seed_decides_the_order(gptj: LoadedModel) -> None:
    def update(seed: int) -> torch.Tensor:
        given = {**TUNE, "batch_facts": 2, "seed": seed}
        return next(iter(edit(gptj, FACTS, "locft", hparams=given).delta.updates.values())).matrix()

    assert torch.equal(update(0), update(0))
    assert not torch.equal(update(0), update(3))


def test_mini_batches_are_counted_and_a_cancel_is_heard(gptj: LoadedModel) -> None:
    seen: list[int] = []
    given = {**TUNE, "batch_facts": 2}
    monitor = Monitor(lambda _, done, total: seen.append(done))
    edit(gptj, FACTS, "locft", hparams=given, monitor=monitor)
    assert seen == [*range(12), 12]
    monitor = Monitor(monitor.report, stop_if(lambda: seen[-1] == 5))
    with pytest.raises(Cancelled):
        edit(gptj, FACTS, "locft", hparams=given, monitor=monitor)


def test_the_end_of_an_answer_is_the_template_s_or_the_text_s() -> None:
    plain = tiny.random_model("llama")
    assert ending_id(plain) == plain.tokenizer.token_to_id("</s>")
    chat = tiny.chat_model("llama")
    assert ending_id(chat) == plain.tokenizer.token_to_id("</s>"), "its template ends no turn"
    turn = plain.tokenizer.token_to_id("<unk>")
    template = ChatTemplate(tiny.CHAT.replace("\n{% endfor", "<unk>\n{% endfor"))
    both = replace(chat, chat=template, eos_token_ids=frozenset({turn, *plain.eos_token_ids}))
    assert ending_id(both) == turn
    assert ending_id(replace(plain, eos_token_ids=frozenset())) is None
