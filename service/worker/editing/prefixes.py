"""The prefixes of a base model: texts before prompts, sampled once and kept in the store."""

from __future__ import annotations

import json

from jeep_core.models.loading import LoadedModel
from jeep_core.storage.records import sealed, unsealed
from jeep_core.values.prefixes import sample_prefixes
from service.store import Store
from service.store.files import replace


def kept_prefixes(store: Store, base: LoadedModel, count: int) -> list[str]:
    """The first ``count`` prefixes of this base model, sampled once and kept.

    A file that cannot be read is written again: the same texts are sampled again.
    """
    path = store.base_file("prefixes.json")
    try:
        found = json.loads(unsealed(path.read_bytes()))
        known: list[str] = found if isinstance(found, list) else found["prefixes"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        known = []
    if len(known) < count:
        known = sample_prefixes(base, count)
        replace(path, sealed(json.dumps({"prefixes": known}, ensure_ascii=False).encode()))
    return known[:count]
