"""The tokens that end a text, as a model's own files name them."""

from __future__ import annotations

import logging
from typing import Any

from jeep_core.errors import UnsupportedModel

log = logging.getLogger(__name__)


def ending_ids(model: Any) -> frozenset[int]:
    """The ids after which nothing is decoded: of the configuration and of the one for generation.

    Chat models often name the end of a turn in ``generation_config.json`` alone.  Ids outside
    the vocabulary, -1 among them, can never be decoded: they are left out, with a line in the log.

    Raises:
        UnsupportedModel: an ``eos_token_id`` is neither a whole number nor a list of them.
    """
    found: set[int] = set()
    rows = int(model.get_output_embeddings().weight.shape[0])
    for file in ("config", "generation_config"):
        given = getattr(getattr(model, file, None), "eos_token_id", None)
        ids = given if isinstance(given, list | tuple) else [] if given is None else [given]
        if any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
            raise UnsupportedModel(
                f"eos_token_id of {file}.json is {given!r}: write the id of a token, or a list of "
                "ids"
            )
        if outside := [i for i in ids if not 0 <= i < rows]:
            log.warning(
                "eos_token_id of %s.json: %s is not among the %d ids of the vocabulary; left out",
                file, ", ".join(map(str, outside)), rows,
            )  # fmt: skip
        found.update(i for i in ids if 0 <= i < rows)
    return frozenset(found)
