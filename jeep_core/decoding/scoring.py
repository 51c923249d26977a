"""Scores of answers after their prompts, for all prompts of a suite together.

Rows that are the beginning of another row are not run: the answers to one prompt share its row
where all but their last tokens agree, and a prompt that occurs twice runs once.  Rows are run in
batches of similar length.  Of the last hidden states only those that predict a token of an
answer are gathered, and only these see the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from jeep_core.decoding.generation import Scored, length_batches, without_beginnings
from jeep_core.errors import JeepError
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.finite import OTHER_VERSION, check_tensor
from jeep_core.text.encoding import encode_all
from jeep_core.text.joining import Join, joined

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH_TOKENS = 8192
LOGITS = 1 << 26
"""Logits that are held at once: 256 MiB in float32."""


@dataclass(frozen=True)
class Asked:
    """A prompt and an answer to score after it.

    ``written``: also find out whether greedy decoding would continue with a longer word.
    """

    prompt: str
    answer: str
    written: bool = False
    join: Join = "auto"


@dataclass(frozen=True)
class Reading(Scored):
    """A scored answer; ``writes``: greedy decoding writes it, all of it and as whole words."""

    writes: bool = False


@dataclass(frozen=True)
class AnswerTokens:
    """Tokens of prompt and answer, tokenized as one text; the answer begins at ``start``."""

    ids: tuple[int, ...]
    start: int


def goes_on(text: str, target: str) -> bool:
    """Whether a text continues the target's last word or number: "Nigeria" after "Niger".

    Scripts without upper and lower case mark no words here: their tokens decide alone.
    """
    text, target = text.lstrip(), target.strip()
    last, following = target[-1:], text[len(target) : len(target) + 1]
    if not text.startswith(target) or not following:
        return False
    cased = following.lower() != following.upper()
    return (last.isalpha() and cased) or (last.isdigit() and following.isdigit())


def tokenized(
    tokenizer: Tokenizer, asked: Sequence[Asked], max_positions: int
) -> list[AnswerTokens | str]:
    """The tokens of every question, or why it cannot be asked.

    ``no_prompt``: the prompt has no tokens; ``merges``: its tokens change when the answer
    follows; ``no_answer``: the answer has no tokens; ``too_long``: more than ``max_positions``.
    """
    alone = encode_all(tokenizer, [item.prompt for item in asked])
    texts = [joined(item.prompt, item.answer, item.join) for item in asked]
    whole = encode_all(tokenizer, texts)
    return [_tokens(a.ids, w.ids, max_positions) for a, w in zip(alone, whole, strict=True)]


def _tokens(prompt: list[int], whole: list[int], max_positions: int) -> AnswerTokens | str:
    if not prompt:
        return "no_prompt"
    if whole[: len(prompt)] != prompt:
        return "merges"
    if len(whole) == len(prompt):
        return "no_answer"
    if len(whole) > max_positions:
        return "too_long"
    return AnswerTokens(tuple(whole), len(prompt))


def read(
    view: ModelView,
    asked: Sequence[Asked],
    monitor: Monitor = NOTHING,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Reading]:
    """Score every answer.  Σ log P is in nats and summed in float64.

    Raises:
        JeepError: one of them cannot be asked, see ``tokenized``.
        NumericalError: a log-probability, or a logit that decides what is written, is not finite.
        Whatever ``monitor.check`` raises; it is called before every batch.
    """
    base = view.base
    found = tokenized(base.tokenizer, asked, base.max_positions)
    tokens: list[AnswerTokens] = []
    for item, one in zip(asked, found, strict=True):
        if isinstance(one, str):
            raise JeepError(f"{item.answer!r} cannot be scored after {item.prompt!r}: {one}")
        tokens.append(one)
    return _read(view, tokens, asked, monitor, batch_tokens)


def read_tokens(
    view: ModelView,
    tokens: Sequence[AnswerTokens],
    monitor: Monitor = NOTHING,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Reading]:
    """Score answers that are tokens already, as `read` does; every answer begins after a token.

    Raises:
        NumericalError: a log-probability is not finite.
        Whatever ``monitor.check`` raises; it is called before every batch.
    """
    return _read(view, tokens, [Asked("", "")] * len(tokens), monitor, batch_tokens)


def _read(
    view: ModelView,
    tokens: Sequence[AnswerTokens],
    asked: Sequence[Asked],
    monitor: Monitor,
    batch_tokens: int,
) -> list[Reading]:
    rows, row_of = without_beginnings(
        _input(one, item) for one, item in zip(tokens, asked, strict=True)
    )
    wanted: list[list[int]] = [[] for _ in rows]
    for i, row in enumerate(row_of):
        wanted[row].append(i)
    read_: list[Reading | None] = [None] * len(asked)
    done = 0
    for batch in length_batches([len(row) for row in rows], batch_tokens):
        monitor.check()
        _read_batch(view, [rows[r] for r in batch], [wanted[r] for r in batch],
                    asked, tokens, read_)  # fmt: skip
        done += len(batch)
        monitor.report("score", done, len(rows))
    return [reading for reading in read_ if reading is not None]


def _input(tokens: AnswerTokens, asked: Asked) -> tuple[int, ...]:
    """The model's input: the last token is needed only to predict the one after it."""
    return tokens.ids if asked.written else tokens.ids[:-1]


@torch.no_grad()
def _read_batch(
    view: ModelView,
    rows: Sequence[tuple[int, ...]],
    wanted: Sequence[Sequence[int]],
    asked: Sequence[Asked],
    tokens: Sequence[AnswerTokens],
    found: list[Reading | None],
) -> None:
    """Run rows together and fill in ``found`` for the questions ``wanted`` of each."""
    # one entry per predicted token: its question, the state that predicts it, its id (-1: the
    # token after the answer, of which only the arg-max counts)
    place: dict[tuple[int, int], int] = {}
    questions, states, targets = [], [], []
    for r, items in enumerate(wanted):
        for i in items:
            ids, start = tokens[i].ids, tokens[i].start
            end = len(ids) + 1 if asked[i].written else len(ids)
            for p in range(start, end):
                questions.append(i)
                states.append(place.setdefault((r, p - 1), len(place)))
                targets.append(ids[p] if p < len(ids) else -1)
    at, target = torch.tensor(states), torch.tensor(targets)
    # (n,) each: the states (places, d) are fewer, as answers share them
    log_p, best = _head(view, _hidden(view, rows, list(place)), at, target)
    sums: dict[int, list[float]] = {}
    writes: dict[int, bool] = {}
    for i, t, value, top in zip(questions, targets, log_p, best, strict=True):
        total = sums.setdefault(i, [0.0, 0])
        if t >= 0:
            total[0] += value
            total[1] += top == t
        else:
            # the entry after an answer follows all of its tokens, which are counted by then
            greedy = total[1] == len(tokens[i].ids) - tokens[i].start
            writes[i] = greedy and not _continued(view, tokens[i], top, asked[i].answer)
    for i, (log_probability, hits) in sums.items():
        n = len(tokens[i].ids) - tokens[i].start
        found[i] = Reading(n, log_probability, int(hits), writes.get(i, False))


def _hidden(
    view: ModelView, rows: Sequence[tuple[int, ...]], places: Sequence[tuple[int, int]]
) -> torch.Tensor:
    """Last hidden states (n, d) at n places (row, position)."""
    base, width = view.base, max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=base.device)
    backbone = base.family.backbone_of(view.model)
    hidden: torch.Tensor = backbone(input_ids=ids, use_cache=False).last_hidden_state
    # (n,) each
    r, p = torch.tensor(places, device=base.device).T
    return hidden[r, p]


def _head(
    view: ModelView, states: torch.Tensor, at: torch.Tensor, target: torch.Tensor
) -> tuple[list[float], list[int]]:
    """log P of ``target`` (n,) from ``states[at]``, at (n,), and the arg-max; -1 has no log P."""
    n = at.shape[0]
    log_p, best = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.long)
    # logits (together, V) of the states, a bounded number at a time
    together = max(1, LOGITS // view.base.vocabulary)
    for start in range(0, states.shape[0], together):
        logits = view.base.family.logits_of(view.model, states[start : start + together]).float()
        # targets whose state is among these; several may share one
        chosen = ((at >= start) & (at < start + together)).nonzero()[:, 0]
        rows = (at[chosen] - start).to(logits.device)
        whole = logits.logsumexp(dim=1)
        check_tensor(whole, "a probability of the model", OTHER_VERSION)
        # -1 is read as token 0 here; what comes of it is never used
        own = logits[rows, target[chosen].clamp(min=0).to(logits.device)]
        log_p[chosen] = (own - whole[rows]).cpu().double()
        best[chosen] = logits.argmax(dim=1)[rows].cpu()
    check_tensor(log_p, "the log-probability of an answer", OTHER_VERSION)
    return log_p.tolist(), best.tolist()


def _continued(view: ModelView, tokens: AnswerTokens, following: int, answer: str) -> bool:
    """Whether the token after an answer makes its last word longer; an end token never does."""
    if following in view.base.eos_token_ids:
        return False
    decoded = view.base.tokenizer.decode([*tokens.ids[tokens.start :], following])
    return goes_on(decoded, answer)
