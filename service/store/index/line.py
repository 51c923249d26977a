"""A line of versions, read from its tip as far as it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from service.contracts.schemas import Manifest
from service.store.index.database import NoIndex
from service.store.store import Store


class Line(Sequence[Manifest]):
    """A version, or drafts on top of it, after all that it is built on: from the base to the tip.

    ``reversed`` and the tip (``line[-1]``) read no more than they give; everything else reads the
    whole line.  Nothing is kept.

    Raises:
        UnknownVersion, CorruptFile: as `Versions.lineage`, when a version is read.
    """

    def __init__(self, store: Store, version: str, drafts: Sequence[Manifest] = ()) -> None:
        self.store, self.version, self.drafts = store, version, tuple(drafts)

    def with_drafts(self, drafts: Sequence[Manifest]) -> Line:
        """The line that ends with drafts on top of this one."""
        return Line(self.store, self.version, (*self.drafts, *drafts))

    def holds(self, edit_id: str) -> bool:
        """Whether the batch of an edit is part of the line."""
        if any(draft.edit_id == edit_id for draft in self.drafts):
            return True
        try:
            return self.store.catalogue.of_edit(edit_id, self.version) is not None
        except NoIndex:
            return any(one.edit_id == edit_id for one in self.store.versions.back(self.version))

    def read(self, version: str) -> Manifest:
        """One version of the line."""
        drafts = (draft for draft in self.drafts if draft.id == version)
        return next(drafts, None) or self.store.versions.read(version)

    def split(self, edit_id: str) -> tuple[Line, list[Manifest]] | None:
        """The line before a batch, and the versions after it; None if it is not part of the line.

        Only the versions after it are read.
        """
        later: list[Manifest] = []
        if not self.holds(edit_id):
            return None
        for one in reversed(self):
            if one.edit_id == edit_id:
                return Line(self.store, str(one.parent)), later[::-1]
            later.append(one)
        return None

    def __reversed__(self) -> Iterator[Manifest]:
        yield from reversed(self.drafts)
        yield from self.store.versions.back(self.version)

    def __iter__(self) -> Iterator[Manifest]:
        return iter(list(reversed(self))[::-1])

    def __len__(self) -> int:
        return sum(1 for _ in reversed(self))

    @overload
    def __getitem__(self, index: int) -> Manifest: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Manifest]: ...

    def __getitem__(self, index: int | slice) -> Manifest | Sequence[Manifest]:
        if index == -1:
            return next(reversed(self))
        return list(self)[index]
