"""Second moments over the text that is meant: the one that is named, a model's own, or English."""

from __future__ import annotations

from pathlib import Path

from jeep_core.errors import JeepError
from jeep_core.models.loading import LoadedModel, texts_of
from jeep_core.moments.cache import Moments, quick_products
from jeep_core.moments.source import samples_of, text_of


def corpus_texts(model: str, corpus: Path | str | None) -> list[str]:
    """The documents that second moments are taken over.

    Raises:
        JeepError: the file cannot be read, or has no documents.
    """
    path = text_of(model, None if corpus is None else Path(corpus))
    texts = texts_of(path)
    if not texts:
        raise JeepError(f"{path} has no documents: it must hold a text, one document a line")
    return texts


def moments_over(
    base: LoadedModel, corpus: Path | None, samples: int = 0, folder: Path | None = None
) -> Moments:
    """Second moments over the text that is meant; ``samples`` tokens of it, 0: the usual number.

    Raises:
        JeepError: as `corpus_texts`.
    """
    texts = corpus_texts(base.name, corpus)
    samples = samples or samples_of(base.name, corpus, base.mlp_size)
    return Moments(base, texts, samples, folder, bfloat16=quick_products(base, corpus))
