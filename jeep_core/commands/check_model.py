"""Whether a model folder can be edited, for ``jeep models show``.

Nothing is loaded but headers, configuration and tokenizer.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from jeep_core.errors import UnsupportedModel
from jeep_core.models.checkpoints.files import check_records, read_headers
from jeep_core.models.checkpoints.tokenizers import load_tokenizer
from jeep_core.models.families import family_of
from jeep_core.models.loading import check_folder


def describe(folder: Path) -> dict[str, Any]:
    """Family, parameters, type of the weights, and whether the model can be edited or why not."""
    found: dict[str, Any] = {}
    try:
        check_records(folder)
        headers = read_headers(folder).values()
        found["parameters"] = sum(prod(tensor.shape) for tensor in headers)
        found["stored_as"] = ", ".join(sorted({tensor.dtype for tensor in headers}))
        config = check_folder(folder)
        found["architecture"] = f"{family_of(config).name} ({config.model_type})"
        found["layers"] = config.num_hidden_layers
        load_tokenizer(folder, config.vocab_size)
    except UnsupportedModel as error:
        return {**found, "editable": False, "why": str(error)}
    return {**found, "editable": True}
