"""API keys: one file each, a salted hash of the secret in it, never the secret.

A secret is 256 random bits, so one round of HMAC-SHA-256 is as good as a slow hash: there is
nothing to guess.  Files are read at every use, so that a new or revoked key takes effect at once.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from jeep_core.storage.looking import listed
from service.contracts.jobs import new_id, now
from service.contracts.schemas.access import ApiKey, Scope
from service.store.errors import CorruptFile, KeyNameTaken, UnknownKey
from service.store.files import create, encode, locked, private, read, replace

log = logging.getLogger(__name__)

TOKEN = re.compile(r"jeep_([0-9A-HJKMNP-TV-Z]{26})_([A-Za-z0-9_-]{43})")
"""A key as its owner holds it: its id without ``key_``, and the secret."""
LIKE_A_TOKEN = re.compile(r"(jeep_[0-9A-Za-z]{26})_[A-Za-z0-9_-]+")
_SECRET_BYTES = 32
_NOBODY = "0" * 64


class ApiKeys:
    """The API keys of a store (``store.keys``): ``keys/<id>.json``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, name: str, scopes: Iterable[Scope]) -> tuple[ApiKey, str]:
        """Return a new key and its token, which cannot be recovered later.

        Raises :class:`KeyNameTaken` if a key of this name is in use, pydantic's
        ``ValidationError`` for an invalid name and for no scopes.
        """
        key_id, secret = new_id("key"), secrets.token_urlsafe(_SECRET_BYTES)
        token = f"jeep_{key_id.removeprefix('key_')}_{secret}"
        salt = secrets.token_hex(16)
        key = ApiKey(
            id=key_id,
            name=name,
            scopes=sorted(set(scopes)),
            salt=salt,
            digest=_digest(salt, token),
            created_at=now(),
        )
        with locked(self._root / "locks" / "keys"):
            if any(known.name == name for known in self.all() if known.revoked_at is None):
                raise KeyNameTaken(f"a key called {name!r} is in use: revoke it first")
            create(self._key_path(key_id), encode(key), private)
        return key, token

    def all(self) -> list[ApiKey]:
        """All keys, revoked ones too, oldest first; unreadable files are logged and left out."""
        found = (self._readable_key(path) for path in listed(self._root / "keys", "*.json"))
        return [key for key in found if key is not None]

    def revoke(self, ref: str) -> ApiKey:
        """Revoke a key by its id, or by its name if it is in use; revoking it twice is allowed.

        Raises :class:`UnknownKey`.
        """
        with locked(self._root / "locks" / "keys"):
            for key in self.all():
                if key.id == ref or (key.name == ref and key.revoked_at is None):
                    revoked = key.model_copy(update={"revoked_at": key.revoked_at or now()})
                    replace(self._key_path(key.id), encode(revoked), private)
                    return revoked
        raise UnknownKey(f"no key in use is called {ref!r}")

    def find(self, token: str) -> ApiKey | None:
        """The key that a token belongs to; None if there is none or it is revoked."""
        key = self.owner(token)
        return key if key is not None and key.revoked_at is None else None

    def owner(self, token: str) -> ApiKey | None:
        """The key that a token belongs to, also one that is revoked; None if there is none."""
        parts = TOKEN.fullmatch(token)
        if parts is None:
            return None
        key = self._readable_key(self._key_path(f"key_{parts.group(1)}"))
        salt, digest = (key.salt, key.digest) if key else ("", _NOBODY)
        same = hmac.compare_digest(_digest(salt, token), digest)
        return key if same else None

    def in_use(self, key_id: str) -> ApiKey | None:
        """The key with an id that this store has given; None if there is none or it is revoked."""
        key = self._readable_key(self._key_path(key_id))
        return key if key is not None and key.revoked_at is None else None

    def _readable_key(self, path: Path) -> ApiKey | None:
        try:
            return read(path, ApiKey)
        except CorruptFile as error:
            log.error("%s", error)
            return None

    def _key_path(self, key_id: str) -> Path:
        return self._root / "keys" / f"{key_id}.json"


def without_keys(text: str) -> str:
    """``text`` without the secrets of anything that looks like a key, for logs."""
    return LIKE_A_TOKEN.sub(r"\1…", text)


def _digest(salt: str, token: str) -> str:
    return hmac.new(salt.encode(), token.encode(), hashlib.sha256).hexdigest()
