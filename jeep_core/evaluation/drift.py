"""How far a version has moved away from another one, on texts and prompts that no edit is about.

At every token the distributions of the next one are compared: KL(before ‖ after) in nats, and
whether the most probable token is another one.  Of a prompt only the token after it counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from statistics import fmean

import numpy as np
import torch

from jeep_core.decoding.generation import length_batches
from jeep_core.decoding.scoring import Asked, read
from jeep_core.evaluation.perplexity import LARGEST, LOGITS_TOGETHER, WINDOW, pieces
from jeep_core.evaluation.protocols import ALL, PROMPTS
from jeep_core.evaluation.statistics import Interval, resamples
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.facts import Fact
from jeep_core.spec.finite import OTHER_VERSION, check_tensor
from jeep_core.text.encoding import encode

BATCH_TOKENS = 8192
TOP = 3
"""Most probable tokens that are shown of a place."""
CONTEXT = 120
"""Characters before a place that are shown."""


@dataclass(frozen=True)
class Passage:
    """A text of some kind; ``prompt``: only the token after it counts."""

    text: str
    kind: str = "text"
    prompt: bool = False


@dataclass
class Moved:
    """The sums over the ``tokens`` of one passage: KL in nats, places where another token is the
    most probable one, and log P of the text before and after.
    """

    kind: str
    tokens: int = 0
    kl: float = 0.0
    changed: int = 0
    log_before: float = 0.0
    log_after: float = 0.0


@dataclass(frozen=True)
class Spot:
    """A place of a passage; ``ids`` are the tokens up to it.

    ``before`` and ``after``: the most probable next tokens with their probabilities.
    """

    passage: int
    ids: tuple[int, ...]
    kl: float
    before: tuple[tuple[int, float], ...]
    after: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Drift:
    """One `Moved` for each passage, and the places that moved most."""

    passages: list[Moved]
    worst: list[Spot]

    @property
    def kl(self) -> float:
        """Mean KL(before ‖ after) in nats per token, over all passages."""
        return sum(one.kl for one in self.passages) / max(1, self.tokens)

    @property
    def tokens(self) -> int:
        """The number of places that were compared."""
        return sum(one.tokens for one in self.passages)


@dataclass(frozen=True)
class KindFigures:
    """Figures of passages of one kind, with 95 % intervals over passages.

    ``kl`` in nats and ``changed`` in per cent, both per token.  Perplexities are None for prompts:
    ``perplexity`` of all tokens of the kind together, ``text_perplexity`` the mean of every text's
    own, as lists of short texts are measured.
    """

    passages: int
    tokens: int
    kl: Interval
    changed: Interval
    perplexity_before: float | None = None
    perplexity: float | None = None
    text_perplexity_before: float | None = None
    text_perplexity: float | None = None


@dataclass
class _Piece:
    """A row: tokens of a passage, and the places whose next token is compared."""

    passage: int
    ids: list[int]
    places: range


@torch.no_grad()
def drift(
    before: ModelView,
    after: ModelView,
    passages: Sequence[Passage],
    *,
    max_tokens: int | None = None,
    worst: int = 0,
    monitor: Monitor = NOTHING,
) -> Drift:
    """Compare two versions of one model, token by token.

    Args:
        before: the version that is compared with.
        after: the version whose distance is measured.
        passages: texts longer than a row are cut, pieces overlapping by a token.
        max_tokens: stop after so many tokens of the passages, in their order.
        worst: how many places to list, the largest KL first.
        monitor: told how many rows are done (phase "compare"); its ``check`` and ``give_way``
            may raise.

    Raises:
        NumericalError: a probability is not finite.
        Whatever ``monitor.check`` raises.
    """
    found = [Moved(one.kind) for one in passages]
    rows = list(_pieces(before, passages, max_tokens))
    spots: list[Spot] = []
    done = 0
    for batch in length_batches([len(row.ids) for row in rows], BATCH_TOKENS):
        monitor.check()
        monitor.report("compare", done, len(rows))
        spots += _compared(before, after, [rows[i] for i in batch], found, worst, monitor)
        spots = sorted(spots, key=lambda spot: -spot.kl)[:worst]
        done += len(batch)
    monitor.report("compare", done, len(rows))
    return Drift(found, spots)


def figures(passages: Sequence[Moved], seed: int = 0) -> dict[str, KindFigures]:
    """Figures by kind, and of all texts together (`ALL`) where there is more than one kind."""
    kinds: dict[str, list[Moved]] = {}
    for one in passages:
        if one.tokens:
            kinds.setdefault(one.kind, []).append(one)
    texts = [one for kind, some in kinds.items() if kind != PROMPTS for one in some]
    if len(kinds.keys() - {PROMPTS}) > 1:
        kinds[ALL] = texts
    return {kind: _figures(kind, some, seed) for kind, some in kinds.items()}


@torch.no_grad()
def next_token(view: ModelView, ids: Sequence[int]) -> torch.Tensor:
    """log P (vocabulary,) of the token after ``ids``, float32.

    Raises:
        NumericalError: one is not finite.
    """
    base = view.base
    tokens = torch.tensor([list(ids)], device=base.device)
    hidden = base.family.backbone_of(view.model)(input_ids=tokens, use_cache=False)
    logits = base.family.logits_of(view.model, hidden.last_hidden_state[0, -1:])
    return _log_softmax(logits)[0]


def divergence(before: torch.Tensor, after: torch.Tensor) -> float:
    """KL(before ‖ after) in nats of two log-distributions (vocabulary,)."""
    return float((before.exp() * (before - after)).sum())


def ability(
    before: ModelView, after: ModelView, facts: Sequence[Fact], monitor: Monitor = NOTHING
) -> tuple[int, int]:
    """How many of the facts' true answers one version writes, and how many of these the other.

    Raises:
        NumericalError: a probability is not finite.
        Whatever ``monitor.check`` raises.
    """
    asked = [Asked(one.text, one.target_true, True, one.join) for one in facts if one.target_true]
    known = [
        question
        for question, reading in zip(asked, read(before, asked, monitor), strict=True)
        if reading.writes
    ]
    return len(known), sum(one.writes for one in read(after, known, monitor))


def _pieces(
    view: ModelView, passages: Sequence[Passage], max_tokens: int | None
) -> Iterator[_Piece]:
    window = max(2, min(WINDOW, view.base.max_positions))
    left = float("inf") if max_tokens is None else max_tokens
    for number, passage in enumerate(passages):
        ids = list(encode(view.base.tokenizer, passage.text).ids)
        if passage.prompt:
            ids = ids[-window:]
            if ids:
                yield _Piece(number, ids, range(len(ids) - 1, len(ids)))
            continue
        for row in pieces([ids], window, None if left == float("inf") else int(left)):
            yield _Piece(number, row, range(len(row) - 1))
        left -= len(ids)
        if left <= 0:
            return


def _compared(
    before: ModelView,
    after: ModelView,
    rows: Sequence[_Piece],
    found: list[Moved],
    worst: int,
    monitor: Monitor,
) -> list[Spot]:
    """Add up rows that run together, and return the places among them that moved most."""
    base, width = before.base, max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows])
    states = [
        base.family.backbone_of(view.model)(
            input_ids=ids.to(base.device), use_cache=False
        ).last_hidden_state
        for view in (before, after)
    ]
    places = [(i, p) for i, row in enumerate(rows) for p in row.places]
    together = max(1, LOGITS_TOGETHER // (2 * base.vocabulary))
    spots: list[Spot] = []
    for start in range(0, len(places), together):
        monitor.give_way()  # a batch has dozens of these products, each as long as a block
        some = places[start : start + together]
        r, p = torch.tensor(some, device=base.device).T
        # (n, vocabulary) each
        old, new = (
            _log_softmax(base.family.logits_of(view.model, hidden[r, p]))
            for view, hidden in zip((before, after), states, strict=True)
        )
        # (n,)
        kl = (old.exp() * (old - new)).sum(dim=1).double().clamp_min(0).cpu()
        changed = (old.argmax(dim=1) != new.argmax(dim=1)).cpu()
        _add(rows, some, found, kl, changed, (old, new))
        for i in kl.topk(min(worst, len(some))).indices.tolist():
            row, place = rows[some[i][0]], some[i][1]
            tops = (_top(old[i]), _top(new[i]))
            spots.append(Spot(row.passage, tuple(row.ids[: place + 1]), float(kl[i]), *tops))
    return spots


def _add(
    rows: Sequence[_Piece],
    places: Sequence[tuple[int, int]],
    found: list[Moved],
    kl: torch.Tensor,
    changed: torch.Tensor,
    logs: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Add n places to their passages: ``kl`` and ``changed`` (n,), ``logs`` (n, vocabulary)."""
    following = [rows[i].ids[p + 1] if p + 1 < len(rows[i].ids) else -1 for i, p in places]
    ids = torch.tensor(following, device=logs[0].device)
    # of a prompt's last token nothing follows: token 0 is read, and not counted
    own = [log.gather(1, ids.clamp_min(0)[:, None])[:, 0].double().cpu() for log in logs]
    for n, (i, _) in enumerate(places):
        moved = found[rows[i].passage]
        moved.tokens += 1
        moved.kl += float(kl[n])
        moved.changed += int(changed[n])
        if following[n] >= 0:
            moved.log_before += float(own[0][n])
            moved.log_after += float(own[1][n])


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """log P (n, vocabulary) of logits (n, vocabulary)."""
    found = logits.float().log_softmax(dim=-1)
    check_tensor(found, "a probability of the model", OTHER_VERSION)
    return found


def _top(log_p: torch.Tensor) -> tuple[tuple[int, float], ...]:
    best = log_p.topk(min(TOP, log_p.shape[0]))
    return tuple(zip(best.indices.tolist(), best.values.exp().tolist(), strict=True))


def _figures(kind: str, some: Sequence[Moved], seed: int) -> KindFigures:
    # (n,)
    tokens = np.array([one.tokens for one in some], dtype=float)
    kl = np.array([one.kl for one in some])
    changed = np.array([100.0 * one.changed for one in some])
    shown: Mapping[str, float] = {}
    if kind != PROMPTS:
        shown = {
            "perplexity_before": _exp(-sum(one.log_before for one in some) / tokens.sum()),
            "perplexity": _exp(-sum(one.log_after for one in some) / tokens.sum()),
            "text_perplexity_before": fmean(_exp(-one.log_before / one.tokens) for one in some),
            "text_perplexity": fmean(_exp(-one.log_after / one.tokens) for one in some),
        }
    return KindFigures(
        passages=len(some),
        tokens=int(tokens.sum()),
        kl=_ratio(kl, tokens, seed),
        changed=_ratio(changed, tokens, seed),
        **shown,
    )


def _ratio(values: np.ndarray, tokens: np.ndarray, seed: int) -> Interval:
    """Σ values / Σ tokens over n passages (n,), with its interval."""
    drawn = [(weights @ values) / (weights @ tokens) for weights in resamples(len(tokens), seed)]
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5])
    whole = float(values.sum() / tokens.sum())
    return Interval(whole, float(low), float(high), len(tokens))


def _exp(mean: float) -> float:
    """e to a mean, as far as it is a number."""
    return exp(min(mean, LARGEST))
