"""Fluency: the n-gram entropy of what a version writes (Zhang et al. 2018; ROME, section 4.2).

A model that was damaged repeats itself: few n-grams, little entropy.  Texts are continued by
sampling among the five most probable tokens, as the authors of ROME do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import log2

from jeep_core.decoding.generation import ROWS_TOGETHER, Decoder
from jeep_core.decoding.sampling import Sampling
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.text.encoding import count

TOKENS = 100
WORDS = re.compile(r"\w+|[^\w\s]")


def n_gram_entropy(text: str) -> float:
    """½ (⅔ H₂ + 4⁄3 H₃) in bits, H₂ and H₃ the entropies of the text's bi- and trigrams.

    Words and punctuation marks count alike.  The literature prints 100 times this figure.
    """
    words = WORDS.findall(text)
    bigrams = list(pairwise(words))
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return (2 / 3 * _entropy(bigrams) + 4 / 3 * _entropy(trigrams)) / 2


def written(
    view: ModelView,
    prompts: Sequence[str],
    seed: int = 0,
    tokens: int = TOKENS,
    monitor: Monitor = NOTHING,
) -> list[str]:
    """Every prompt with its continuation; one and the same for the same seed and place.

    Raises:
        Whatever ``monitor.check`` raises; it is called after every token.
    """
    base = view.base
    texts: list[str] = []
    for start in range(0, len(prompts), ROWS_TOGETHER):
        batch = prompts[start : start + ROWS_TOGETHER]
        room = [base.max_positions - count(base.tokenizer, text) for text in batch]
        sampling = [
            Sampling(max(1, min(tokens, free)), temperature=1.0, top_k=5, seed=seed + start + i)
            for i, free in enumerate(room)
        ]
        decoder = Decoder(view, batch, sampling)
        for _ in decoder.steps():
            monitor.check()
            monitor.report("write texts", start, len(prompts))
        texts += [text + one.text for text, one in zip(batch, decoder.results, strict=True)]
    return texts


def _entropy(items: Sequence[object]) -> float:
    """Shannon entropy of the items' frequencies in bits."""
    counts = Counter(items)
    total = counts.total()
    return -sum(n / total * log2(n / total) for n in counts.values())
