"""Facts as the probe reads them: a prompt and the first tokens of two answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from jeep_core.models.loading import LoadedModel
from jeep_core.models.token_rows import stack_rows
from jeep_core.models.views import ModelView
from jeep_core.probe.head import logits_in_parts
from jeep_core.spec.facts import Fact, slot_span
from jeep_core.spec.finite import OTHER_VERSION, check_tensor
from jeep_core.spec.positions import (
    PREFIX_TOKENS,
    PromptTokens,
    TokenizationError,
    token_spans,
    tokenize_fact,
    tokenize_prompt,
)
from jeep_core.text.encoding import encode

BATCH_TOKENS = 4096
ANSWER_TOKENS = 1024
"""Fewer where a batch is run for its answers alone: more together take memory and no less time."""


@dataclass(frozen=True)
class Prompt:
    """One prompt.  ``original`` and ``target`` are first tokens of the answers.

    ``subject_first``: first token of the subject, so its tokens are those up to
    ``tokens.subject_last``.  ``assumed``: the fact names no true answer, so the original answer
    is the model's own.
    """

    fact: Fact
    tokens: PromptTokens
    subject_first: int
    original: int
    target: int
    assumed: bool = False


@dataclass(frozen=True)
class Prompts:
    """The prompts to probe, and how many facts were left out, by reason."""

    prompts: tuple[Prompt, ...]
    dropped: dict[str, int]


def prepare(view: ModelView, facts: Sequence[Fact]) -> Prompts:
    """Prompts of all facts that have two answers which begin differently.

    A fact without ``target_true`` gets the model's own answer as its original one.  Left out
    are facts that cannot be tokenized (``not_tokenized``), facts too long
    to be edited (``too_long``), and answers with the same first token (``same_first_token``).
    """
    base, dropped = view.base, Counter[str]()
    kept: list[tuple[Fact, PromptTokens, int, int | None]] = []
    for fact in facts:
        try:
            tokens = tokenize_prompt(base.tokenizer, fact.prompt, fact.subject)
            full = tokenize_fact(base.tokenizer, fact)
            original = first_token(base, fact, fact.target_true) if fact.target_true else None
        except TokenizationError:
            dropped["not_tokenized"] += 1
            continue
        if len(full.ids) > base.max_positions - PREFIX_TOKENS:
            dropped["too_long"] += 1
            continue
        kept.append((fact, tokens, full.ids[len(tokens.ids)], original))
    own = iter(answers(view, [tokens for _, tokens, _, known in kept if known is None]))
    prompts = []
    for fact, tokens, target, known in kept:
        original = next(own) if known is None else known
        if original == target:
            dropped["same_first_token"] += 1
            continue
        first = subject_first(base, fact)
        prompts.append(Prompt(fact, tokens, first, original, target, known is None))
    return Prompts(tuple(prompts), dict(dropped))


def first_token(base: LoadedModel, fact: Fact, answer: str) -> int:
    """First token of an answer after the prompt of ``fact``.

    Raises:
        TokenizationError: the answer merges with the prompt, or has no tokens.
    """
    row = tokenize_prompt(base.tokenizer, fact.prompt, fact.subject, answer, fact.join)
    return row.ids[row.prediction + 1]


def subject_first(base: LoadedModel, fact: Fact) -> int:
    """Place of the first token that has a character of the subject."""
    start, end = slot_span(fact.prompt, fact.subject)
    spans = token_spans(encode(base.tokenizer, fact.text))
    return next(i for i, (a, b) in enumerate(spans) if a < end and b > start and a < b)


def batches(rows: Sequence[PromptTokens], batch_tokens: int = BATCH_TOKENS) -> list[list[int]]:
    """Numbers of rows in order of length, so many together that a padded batch stays small."""
    found: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i].ids)):
        if found and len(rows[i].ids) * (len(found[-1]) + 1) <= batch_tokens:
            found[-1].append(i)
        else:
            found.append([i])
    return found


@torch.no_grad()
def answers(view: ModelView, rows: Sequence[PromptTokens]) -> list[int]:
    """The most probable token after every prompt."""
    family, found = view.base.family, [0] * len(rows)
    for chosen in batches(rows, ANSWER_TOKENS):
        batch = stack_rows([rows[i] for i in chosen], view.base.device)
        hidden = family.backbone_of(view.model)(input_ids=batch.ids, use_cache=False)
        r = torch.arange(len(chosen), device=view.base.device)
        states = hidden.last_hidden_state[r, batch.prediction]
        for place, logits in logits_in_parts(view, states):
            check_tensor(logits.amax(dim=1), "a probability of the model", OTHER_VERSION)
            for i, token in zip(chosen[place], logits.argmax(dim=1).tolist(), strict=True):
                found[i] = token
    return found
