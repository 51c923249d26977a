"""The probe of a base model that hyper-parameters ``"auto"`` use: one JSON file per model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jeep_core.errors import JeepError, is_no_damage
from jeep_core.spec.finite import json_text
from jeep_core.storage.records import sealed, unsealed
from jeep_core.storage.writing import write_atomically


def keep(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write a probe's record where ``kept`` finds it, in place of an earlier one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['model_hash']}.json"
    write_atomically(path, sealed(json_text(record, "the probe").encode()))
    return path


def kept(folder: Path, model_hash: str) -> dict[str, Any] | None:
    """The kept record of a model.

    Raises:
        JeepError: the file cannot be read.
    """
    path = folder / f"{model_hash}.json"
    try:
        record: dict[str, Any] = json.loads(unsealed(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if is_no_damage(error):
            raise
        raise JeepError(f"{path} is no probe: {error}") from None
    return record
