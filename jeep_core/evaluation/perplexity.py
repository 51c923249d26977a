"""Perplexity: how well a version still predicts a text that its edits are not about."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import exp, inf, log
from pathlib import Path

from jeep_core import atlas
from jeep_core.decoding.generation import checked, score_rows
from jeep_core.errors import JeepError
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.finite import OTHER_VERSION, check_number
from jeep_core.text.encoding import encode

WINDOW = 1024
"""Longest row in tokens; models with fewer positions get shorter ones."""

ROWS_TOGETHER = 64
LARGEST = log(sys.float_info.max)
"""Largest mean whose exponential is a number."""
LOGITS_TOGETHER = 2**26
"""Bound on rows · tokens · vocabulary computed at once: 256 MiB in float32."""


def perplexity(
    view: ModelView,
    texts: Sequence[str],
    *,
    max_tokens: int | None = None,
    monitor: Monitor = NOTHING,
) -> float:
    """exp of the mean negative log-likelihood per token, the first token of every text given.

    A text longer than a row is cut; each piece starts with the last token of the one before, so
    every other token counts once.  Rows of similar length run together; padding is
    neither seen by a token that counts nor counted.

    Args:
        view: a version of a model.
        texts: documents.
        max_tokens: stop after so many tokens of the texts, in their order.
        monitor: its ``check`` is called between batches and may raise to end it.

    Raises:
        JeepError: the texts have no token to predict.
        NumericalError: the perplexity, or a probability, is not finite.
    """
    base = view.base
    rows = sorted(
        pieces([encode(base.tokenizer, t).ids for t in texts], _window(view), max_tokens),
        key=len,
    )
    if not rows:
        raise JeepError("the text for perplexity has no token to predict")
    batch_tokens = max(1, LOGITS_TOGETHER // base.vocabulary)
    total, count = 0.0, 0
    for start in range(0, len(rows), ROWS_TOGETHER):
        monitor.check()
        some = [(row, 1) for row in rows[start : start + ROWS_TOGETHER]]
        for scored in checked(score_rows(view, some, batch_tokens)):
            total -= scored.log_probability
            count += scored.tokens
    mean = total / count
    if mean > LARGEST:
        what = f"the perplexity, e to the {mean:.4g},"
        check_number(inf, what, "the weights are damaged beyond measuring; " + OTHER_VERSION)
    return exp(mean)


def pieces(
    documents: Sequence[Sequence[int]], window: int, max_tokens: int | None = None
) -> list[list[int]]:
    """Rows of at most ``window`` tokens, at least two, of the first ``max_tokens`` tokens."""
    rows: list[list[int]] = []
    left: float = inf if max_tokens is None else max_tokens
    for ids in documents:
        taken = list(ids if len(ids) <= left else ids[: int(left)])
        # pieces overlap by a token, which is given in the second
        rows += [taken[i : i + window] for i in range(0, len(taken) - 1, window - 1)]
        left -= len(taken)
    return rows


def text_path(model: str, text: Path | None) -> Path | None:
    """The text for perplexity: the given one, else that of a bundled model, else None."""
    return text or (atlas.HELDOUT if model in atlas.MODELS else None)


def _window(view: ModelView) -> int:
    return max(2, min(WINDOW, view.base.max_positions))
