"""Perplexity against the model's own forward pass, row by row, without padding."""

from __future__ import annotations

from math import exp, inf, log

import pytest
import torch
from support.library import tiny
from torch.nn import functional as F

from jeep_core.errors import Cancelled, JeepError, NumericalError
from jeep_core.evaluation import perplexity as module
from jeep_core.evaluation.perplexity import perplexity, pieces
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor

BIGRAMS = tiny.bigram_view({"in": {"Rome": 0.6}, "near": {"Old": 0.2}, "Old": {"Town": 0.9}})
TEXTS = [*tiny.TEXTS[:6], " ".join(tiny.TEXTS[:12])]  # the last one is longer than a row


def test_perplexity_is_per_token_over_all_texts() -> None:
    """Three tokens are predicted: 0.6, 0.2 and 0.9."""
    expected = exp(-(log(0.6) + log(0.2) + log(0.9)) / 3)
    assert perplexity(BIGRAMS, ["in Rome", "near Old Town"]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_perplexity_equals_the_model_s_own_loss(family: str) -> None:
    """Soft caps, windows and norms included; every row alone, in float64 from its logits on."""
    base = tiny.random_model(family)
    losses: list[float] = []
    for text in TEXTS:
        ids = base.tokenizer.encode(text).ids
        for start in range(0, len(ids) - 1, tiny.POSITIONS - 1):
            row = torch.tensor([ids[start : start + tiny.POSITIONS]])
            logits = base.model(input_ids=row).logits[0, :-1].double()
            losses += F.cross_entropy(logits, row[0, 1:], reduction="none").tolist()
    assert len(losses) == sum(len(base.tokenizer.encode(text).ids) - 1 for text in TEXTS)
    expected = exp(sum(losses) / len(losses))
    assert perplexity(ModelView(base), TEXTS) == pytest.approx(expected, rel=1e-4)


def test_perplexity_does_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    view = ModelView(tiny.random_model("llama"))
    together = perplexity(view, TEXTS)
    monkeypatch.setattr(module, "ROWS_TOGETHER", 2)
    monkeypatch.setattr(module, "LOGITS_TOGETHER", 1)
    assert perplexity(view, TEXTS[::-1]) == pytest.approx(together, rel=1e-5)


def test_every_token_but_a_text_s_first_counts_once() -> None:
    rows = pieces([list(range(10)), [50], [60, 61]], window=4)
    assert rows == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9], [60, 61]]


@pytest.mark.parametrize(("limit", "rows"), [(5, [[0, 1, 2], [7, 8]]), (4, [[0, 1, 2]]), (1, [])])
def test_a_limit_ends_the_text(limit: int, rows: list[list[int]]) -> None:
    assert pieces([[0, 1, 2], [7, 8, 9]], window=4, max_tokens=limit) == rows


def test_a_broken_version_has_no_perplexity() -> None:
    base = tiny.random_model("gptj")
    head = base.model.get_output_embeddings().weight
    broken = ModelView(base, {"lm_head.weight": torch.randn_like(head) * 1e4})
    with pytest.raises(NumericalError, match=r"^the perplexity, e to the 1\.\d+e\+05, is not"):
        perplexity(broken, TEXTS)
    broken = ModelView(base, {"lm_head.weight": torch.full_like(head, inf)})
    with pytest.raises(NumericalError, match="the log-probability of a text"):
        perplexity(broken, TEXTS)


def test_a_text_without_anything_to_predict_is_refused() -> None:
    with pytest.raises(JeepError, match="no token to predict"):
        perplexity(BIGRAMS, ["Rome", ""])


def test_measuring_perplexity_can_be_cancelled_between_batches() -> None:
    def stop() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        perplexity(BIGRAMS, ["in Rome"], monitor=Monitor(check=stop))
