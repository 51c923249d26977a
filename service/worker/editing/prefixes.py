"""The prefixes of a base model: texts before prompts, sampled once and kept in the store."""

from __future__ import annotations

from jeep_core.models.loading import LoadedModel
from jeep_core.values.prefixes import sample_prefixes
from service.store import Store


def kept_prefixes(store: Store, base: LoadedModel, count: int) -> list[str]:
    """The first ``count`` prefixes of this base model, sampled once and kept.

    A file that cannot be read is written again: the same texts are sampled again.
    """
    known = store.base.prefixes()
    if len(known) < count:
        known = sample_prefixes(base, count)
        store.base.keep_prefixes(known)
    return known[:count]
