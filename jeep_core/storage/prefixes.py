"""The file of a model's sampled prefixes; needs no torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from jeep_core.storage.records import sealed, unsealed

log = logging.getLogger(__name__)


def read_prefixes(path: Path) -> list[str]:
    """The prefixes in a file; none if there is no file, or a damaged one, which is logged."""
    try:
        found = json.loads(unsealed(path.read_bytes()))
        known = found if isinstance(found, list) else found["prefixes"]
        if not all(isinstance(text, str) for text in known):
            raise TypeError("not all prefixes are texts")
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged (%s): the prefixes are sampled again", path, error)
        return []
    return list(known)


def prefixes_file(prefixes: Sequence[str]) -> bytes:
    """The content of a file that ``read_prefixes`` reads."""
    text = json.dumps({"prefixes": list(prefixes)}, ensure_ascii=False)
    return sealed(text.encode())
