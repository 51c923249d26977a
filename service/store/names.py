"""Snapshot names, and what a reference to a version means."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import RootModel

from service.store.errors import BadName, NameTaken, UnknownVersion
from service.store.files import encode, locked, read, replace
from service.store.head import HeadPointer
from service.store.versions import BASE, Versions

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_ID_LIKE = re.compile(r"v[0-9]+")


class NameTable(RootModel[dict[str, str]]):
    """``names.json``: snapshot name → version id."""


class Names:
    """The names of a store's versions (``store.names``)."""

    def __init__(self, root: Path, versions: Versions, head: HeadPointer) -> None:
        self._root, self._versions, self._head = root, versions, head

    def give(self, name: str, version: str) -> None:
        """Name a version permanently; giving it the same name again is allowed.

        Raises :class:`BadName`, :class:`NameTaken` or :class:`UnknownVersion`.
        """
        if not _NAME.fullmatch(name) or name in ("head", "base") or _ID_LIKE.fullmatch(name):
            raise BadName(
                f"{name!r} cannot name a version: take letters, digits and . _ -, beginning with "
                "a letter; head, base, v1, v2, … are taken"
            )
        self._versions.read(version)
        with locked(self._root / "locks" / "names"):
            names = self.all()
            if names.get(name, version) != version:
                raise NameTaken(name, names[name])
            replace(self._root / "names.json", encode(NameTable({**names, name: version})))

    def all(self) -> dict[str, str]:
        """Snapshot name → version id."""
        names = read(self._root / "names.json", NameTable)
        return names.root if names else {}

    def resolve(self, ref: str) -> str:
        """The id meant by ``head``, ``base``, ``vN`` or a name; else UnknownVersion."""
        if ref == "head":
            return self._head.read().version
        names = self.all()
        version_id = BASE if ref == "base" else names.get(ref, ref)
        try:
            return self._versions.read(version_id).id
        except UnknownVersion:
            near = () if _ID_LIKE.fullmatch(ref) else ("head", "base", *names)
            raise UnknownVersion(ref, near) from None
