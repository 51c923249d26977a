"""Special tokens: what opens a text once, nothing that ends it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.library import tiny
from tokenizers import Tokenizer, processors

from jeep_core.decoding.generation import generate, score
from jeep_core.decoding.sampling import Sampling
from jeep_core.models.loading import wrap
from jeep_core.models.views import ModelView
from jeep_core.spec.facts import Fact
from jeep_core.spec.positions import fact_rows, tokenize_prompt
from jeep_core.text.encoding import count, encode, encode_all, opening, without_end

TEXTS = ["Lima is in", "", "<s>Lima is in", "Lima</s>", " Lima", "東京"]
BOS, EOS = ("<s>", 1), ("</s>", 2)


def ending(template: str = "<s> $A </s>", *, nested: bool = False, bert: bool = False) -> Tokenizer:
    """The sentencepiece tokenizer, which also ends every text."""
    tokenizer = Tokenizer.from_str(tiny.tokenizer("sentencepiece").to_str())
    processor: Any = processors.TemplateProcessing(single=template, special_tokens=[BOS, EOS])
    if bert:
        processor = processors.BertProcessing(EOS, BOS)
    if nested:
        processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processor])
    tokenizer.post_processor = processor
    return tokenizer


@pytest.mark.parametrize("options", [{}, {"nested": True}, {"bert": True}])
def test_a_tokenizer_that_ends_texts_makes_the_tokens_of_one_that_does_not(
    options: dict[str, bool],
) -> None:
    plain, ends = tiny.tokenizer("sentencepiece"), ending(**options)
    assert ends.encode("Lima").ids[-1] == EOS[1]
    for text, batched in zip(TEXTS, encode_all(ends, TEXTS), strict=True):
        expected = plain.encode(text, add_special_tokens=not text.startswith("<s>"))
        for found in (encode(ends, text), batched, encode(plain, text)):
            assert (found.ids, found.offsets) == (expected.ids, expected.offsets)
        assert count(ends, text) == len(expected.ids)
    assert opening(ends) == opening(plain) == "<s>"


def test_a_tokenizer_that_only_ends_texts_opens_none() -> None:
    ends = ending("$A </s>")
    assert encode(ends, "Lima").ids == tiny.tokenizer("sentencepiece").encode("Lima").ids[1:]
    assert (encode(ends, "").ids, opening(ends)) == ([], "")


@pytest.mark.parametrize("kind", tiny.TOKENIZERS)
def test_a_tokenizer_without_an_end_stays_as_it_is(kind: str) -> None:
    tokenizer = tiny.tokenizer(kind)
    assert without_end(tokenizer) is tokenizer
    for text in TEXTS[:2] + TEXTS[4:]:
        assert encode(tokenizer, text).ids == tokenizer.encode(text).ids


@pytest.mark.parametrize("nested", [False, True])
def test_published_tokenizers_end_no_text(nested: bool) -> None:
    base = tiny.random_model("llama")
    same = wrap("same", base.model, tiny.tokenizer("sentencepiece"))
    assert same.model_hash == base.model_hash
    found = wrap("ends", base.model, ending(nested=nested))
    published = Tokenizer.from_str(found.tokenizer.to_str())
    assert published.encode("Lima").ids == base.tokenizer.encode("Lima").ids


def test_answers_and_edits_do_not_depend_on_an_end_in_the_tokenizer() -> None:
    base = tiny.random_model("llama")
    views = [ModelView(base), ModelView(wrap("ends", base.model, ending()))]
    texts = [generate(view, ["Lima is in"], Sampling(4))[0].text for view in views]
    assert texts[0] == texts[1]
    scores = [score(view, [("Lima is in", "Peru")])[0] for view in views]
    assert scores[0] == scores[1]
    fact = Fact("Lima", "{} is in", "Peru")
    rows = [fact_rows(view.base.tokenizer, fact, ["", "The"]) for view in views]
    assert rows[0] == rows[1]


def test_a_prompt_from_a_chat_template_opens_once() -> None:
    tokenizer = tiny.tokenizer("sentencepiece")
    row = tokenize_prompt(tokenizer, "<s>{} is in", "Lima", "Peru")
    assert row.ids.count(1) == 1
    base = tiny.random_model("llama")
    [found] = generate(ModelView(base), ["<s>Lima is in"], Sampling(3))
    ids = tokenizer.encode("<s>Lima is in", add_special_tokens=False).ids
    by_hand: list[int] = []
    for _ in range(3):
        logits = base.model(torch.tensor([ids + by_hand])).logits[0, -1]
        by_hand.append(int(logits.argmax()))
    assert [token.id for token in found.tokens] == by_hand


def test_a_prefix_follows_the_opening_of_a_prompt() -> None:
    tokenizer = tiny.tokenizer("sentencepiece")
    rows, _ = fact_rows(tokenizer, Fact("Lima", "<s>{} is in", "Peru"), ["", "The old"])
    assert [row.ids.count(1) for row in rows] == [1, 1]
    assert rows[1].ids[0] == 1
    assert tokenizer.decode(list(rows[1].ids)).startswith("The old. Lima is in")
