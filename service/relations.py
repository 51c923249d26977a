"""The user's own relation templates: the file that ``JEEP_RELATIONS`` names."""

from __future__ import annotations

import json
from pathlib import Path

from jeep_core.errors import JeepError
from jeep_core.facts import SLOT


def own_relations(path: Path) -> dict[str, str]:
    """Relation names with their templates.

    Raises:
        JeepError: the file cannot be read, or is no JSON object of templates.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JeepError(f"JEEP_RELATIONS: {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise JeepError(f"JEEP_RELATIONS: {path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise JeepError(
            f"JEEP_RELATIONS: {path} must hold an object of names and templates, such as "
            f'{{"capital": "The capital of {SLOT} is"}}'
        )
    for name, template in found.items():
        if not isinstance(template, str) or template.count(SLOT) != 1:
            raise JeepError(
                f"JEEP_RELATIONS: {path}: the template of {name!r} must be a text with exactly "
                f"one {SLOT} for the subject"
            )
    return found
