"""Positions in a tokenized prompt: subject, prediction position, target tokens.

Everything follows from character offsets of one tokenization of the full text; pieces are
never tokenized apart and their lengths added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jeep_core.errors import Coded, FieldProblem, InvalidFacts
from jeep_core.spec.facts import Fact, fill, slot_span
from jeep_core.spec.hparams import Contexts
from jeep_core.text.counting import counted
from jeep_core.text.encoding import encode, opening
from jeep_core.text.joining import Join, joined

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

KL_TEMPLATE = "{} is a"
CHAT_PREFIXES = 1
"""Rows of a chat beside those of the plain prompt: the empty prefix, and sampled ones."""
PREFIX_TOKENS = 24
"""Room kept free for a sampled prefix: a start, ten tokens, and the full stop after them."""


@dataclass(frozen=True)
class PromptTokens:
    """One row: prompt and target, tokenized as one text.

    ``ids`` are prompt tokens followed by target tokens.  ``subject_last`` is the last token
    whose characters intersect the subject, ``prediction`` the last token of the prompt, both
    0-based; ``n_target`` may be 0.
    """

    ids: tuple[int, ...]
    subject_last: int
    prediction: int
    n_target: int


class TokenizationError(Coded, ValueError):
    """A prompt that cannot be edited with this tokenizer; ``field`` is at fault."""

    def __init__(self, field: str, code: str, message: str) -> None:
        self.field, self.code = field, code
        super().__init__(message)


def token_spans(encoding: Encoding) -> list[tuple[int, int]]:
    """Character spans of the tokens; (0, 0) for special tokens."""
    return [
        (0, 0) if special else span
        for span, special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
    ]


def last_token_in(spans: Sequence[tuple[int, int]], start: int, end: int) -> int:
    """Index of the last token that has a character in [start, end).

    Raises:
        ValueError: no token has.
    """
    inside = [i for i, (a, b) in enumerate(spans) if a < end and b > start and a < b]
    if not inside:
        raise ValueError(f"no token covers characters {start} to {end}")
    return inside[-1]


def tokenize_prompt(
    tokenizer: Tokenizer,
    template: str,
    subject: str,
    target: str | None = None,
    join: Join = "auto",
) -> PromptTokens:
    """Tokenize ``template`` with the subject filled in, followed by the target if any.

    Raises:
        TokenizationError: the target changes the prompt's own tokens, the subject vanishes in
            tokenization, or the target has no token of its own.
    """
    prompt = fill(template, subject)
    start, end = slot_span(template, subject)
    alone = encode(tokenizer, prompt)
    try:
        subject_last = last_token_in(token_spans(alone), start, end)
    except ValueError:
        raise TokenizationError("subject", "no_tokens", "the subject has no tokens") from None
    n = len(alone.ids)
    if target is None:
        return PromptTokens(tuple(alone.ids), subject_last, n - 1, 0)
    full = encode(tokenizer, joined(prompt, target, join))
    if full.ids[:n] != alone.ids:
        raise TokenizationError("target_new", "merges_with_prompt", _merging(prompt, alone, full))
    if len(full.ids) == n:
        raise TokenizationError("target_new", "no_tokens", "the target has no tokens")
    return PromptTokens(tuple(full.ids), subject_last, n - 1, len(full.ids) - n)


def _merging(prompt: str, alone: Encoding, full: Encoding) -> str:
    """How the prompt's last tokens change, and what to do about it."""
    pairs = zip(alone.ids, full.ids, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), len(full.ids) - 1)
    before, after = alone.tokens[at], full.tokens[at]
    if prompt[-1:].isspace():
        what = "leave out the white space at the end of the prompt: it can be a part of the target"
    else:
        what = "let the prompt end, or the target begin, elsewhere, or give another `join`"
    return (
        f"the target's first token merges with the end of the prompt "
        f"({before!r} becomes {after!r}); {what}"
    )


def check_facts(
    tokenizer: Tokenizer,
    facts: Sequence[Fact],
    max_tokens: int,
    pointer: str = "/facts",
    true_answers: bool = False,
) -> list[PromptTokens]:
    """Tokenize every fact with the empty prefix, collecting the problems of all of them.

    ``max_tokens`` is the model's limit; room for a prefix before it is kept free.
    ``true_answers``: each ``target_true`` must be one that can be scored after the prompt.

    Raises:
        InvalidFacts: with a JSON pointer per fact that cannot be edited.
    """
    rows: list[PromptTokens] = []
    problems = []
    for i, fact in enumerate(facts):
        try:
            row = tokenize_fact(tokenizer, fact, true_answers)
            chat = chat_rows(tokenizer, fact, [""]) if fact.chat is not None else []
            longest, limit = max(len(one.ids) for one in (row, *chat)), max_tokens - PREFIX_TOKENS
            if longest > limit:
                how = " as a chat" if longest > len(row.ids) else ""
                message = (
                    f"{counted(longest, 'token')}{how}, at most {limit} leave room for a prefix"
                )
                raise TokenizationError("prompt", "too_long", message)
            rows.append(row)
        except TokenizationError as error:
            where = f"{pointer}/{i}/{error.field}"
            problems.append(FieldProblem(where, error.code, str(error)))
    if problems:
        raise InvalidFacts(problems)
    return rows


def tokenize_fact(tokenizer: Tokenizer, fact: Fact, true_answer: bool = False) -> PromptTokens:
    """The fact's prompt and new target after the empty prefix.

    Raises:
        TokenizationError: as ``tokenize_prompt``; with ``true_answer`` also for
            ``target_true``.
    """
    row = tokenize_prompt(tokenizer, fact.prompt, fact.subject, fact.target_new, fact.join)
    if true_answer and fact.target_true:
        try:
            tokenize_prompt(tokenizer, fact.prompt, fact.subject, fact.target_true, fact.join)
        except TokenizationError as error:
            raise TokenizationError("target_true", error.code, str(error)) from None
    return row


def fact_rows(
    tokenizer: Tokenizer, fact: Fact, prefixes: Sequence[str]
) -> tuple[list[PromptTokens], PromptTokens]:
    """Rows of one fact for value optimisation: one per prefix, and the KL row.

    ``prefixes[0]`` is the empty prefix; the others are joined as ``prefix + ". " + prompt``,
    after a BOS that the prompt begins with.
    """
    start = opening(tokenizer)
    texts = [with_prefix(prefix, fact.prompt, start) for prefix in prefixes]
    rows = [
        tokenize_prompt(tokenizer, text, fact.subject, fact.target_new, fact.join) for text in texts
    ]
    return rows, tokenize_prompt(tokenizer, KL_TEMPLATE, fact.subject)


def context_rows(
    tokenizer: Tokenizer, fact: Fact, prefixes: Sequence[str], contexts: Contexts
) -> tuple[list[PromptTokens], PromptTokens, list[PromptTokens]]:
    """Rows of one fact as it is asked in ``contexts``: as by ``fact_rows``, and those of a second
    context, with which the chat is, if the fact is asked in both.

    The chat's rows have the prefixes at the beginning of the user's words; of a second context
    there are ``CHAT_PREFIXES``.  A fact that was given as messages is asked in its chat only.
    """
    plain, kl = fact_rows(tokenizer, fact, prefixes if contexts != "chat" else [])
    if contexts == "plain" and not fact.messages:
        return plain, kl, []
    chats = chat_rows(tokenizer, fact, prefixes)
    if contexts != "both":
        return chats, kl, []
    return chats if fact.messages else plain, kl, chats[:CHAT_PREFIXES]


def chat_rows(tokenizer: Tokenizer, fact: Fact, prefixes: Sequence[str]) -> list[PromptTokens]:
    """Rows of a fact asked in a chat, one per prefix, which begins the user's words.

    Raises:
        TokenizationError: as ``tokenize_prompt``.
    """
    form = fact.chat
    assert form is not None
    lead, said = form.prompt[: form.user_at], form.prompt[form.user_at :]
    texts = [lead + with_prefix(prefix, said) for prefix in prefixes]
    target = fact.target_new.lstrip()
    return [tokenize_prompt(tokenizer, text, fact.subject, target, form.join) for text in texts]


def with_prefix(prefix: str, template: str, start: str = "") -> str:
    """``prefix. template``, or the template alone for the empty prefix.

    ``start``: a text that stays first where the template begins with it.
    """
    if not prefix:
        return template
    start = start if start and template.startswith(start) else ""
    return f"{start}{prefix}. {template[len(start) :]}"
