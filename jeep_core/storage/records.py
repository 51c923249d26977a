"""JSON records that carry their own hash, by which any flipped bit is found."""

from __future__ import annotations

import hashlib
import re

_SEAL = b"sha256_of_the_rest"
_SEALED = re.compile(rb',?"%s":"([0-9a-f]{64})"}\Z' % _SEAL)
_LIKE_A_SEAL = re.compile(rb'"[^"]{%d}":"[0-9a-f]{64}"}\Z' % len(_SEAL))
_SEAL_BYTES = len(_SEAL) + 71


def sealed(record: bytes) -> bytes:
    """A JSON object with its own hash as its last member."""
    comma = b"" if record == b"{}" else b","
    return record[:-1] + comma + b'"%s":"%s"}' % (_SEAL, _sha256(record))


def unsealed(data: bytes) -> bytes:
    """The object without its hash; one that has none (an earlier release wrote it) as it is.

    Raises:
        ValueError: the hash is another.
    """
    found = _SEALED.search(data, max(0, len(data) - _SEAL_BYTES))
    if found is None:
        if _SEAL in data[-_SEAL_BYTES:] or _LIKE_A_SEAL.search(data, len(data) - _SEAL_BYTES):
            raise ValueError("the hash that it was written with cannot be read")
        return data
    record = data[: found.start()] + b"}"
    if _sha256(record) != found.group(1):
        raise ValueError("it does not have the hash that it was written with")
    return record


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
