"""The folder in which a follower keeps what it has fetched: one process has it, and it is bounded.

``followed.json`` names the store; the copy of it lies in a folder that is called like its id, so
that nothing of a store that was replaced is taken for the new one's.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel

from jeep_core.storage.looking import LOST_AND_FOUND, is_folder, is_plain_file, walked
from service.store.errors import CorruptFile, NotAStore, StoreBusy
from service.store.files import TEMPORARY, encode, held, is_unfinished, read, replace

log = logging.getLogger(__name__)
MARK = "followed.json"
_LOCK = "lock"
FOLDERS = ("model", "versions", "tensors", "locks", "index")
"""Folders of the copy."""
FETCHED = ("versions", "tensors")
"""Those whose files can be fetched again, so that they may be removed at any time."""


class Followed(BaseModel):
    """``followed.json``: the id of the store that is followed."""

    id: str


def followed_id(folder: Path) -> str:
    """The id of the store that a follower with this folder follows.

    Raises:
        NotAStore: it has not reached the api yet, or the folder is another one.
    """
    found = read(folder / MARK, Followed)
    if found is None:
        raise NotAStore(f"{folder}: no follower has fetched anything into it yet")
    return found.id


class Cache:
    """The folder of one follower.

    ``limit`` is the size in bytes beyond which `trim` removes the files that were used least
    recently.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder.absolute(), limit
        self._trimming = threading.Lock()
        self._told = False

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Have the folder for the block; it is made if need be.

        Raises:
            NotAStore: it holds other files.
            StoreBusy: another follower has it.
        """
        self._check()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with held(self.folder / _LOCK, "another follower"):
                yield
        except StoreBusy as error:
            raise StoreBusy(f"{error}: give every follower a JEEP_STORE of its own") from None

    def _check(self) -> None:
        names = {one.name for one in self.folder.iterdir()} if is_folder(self.folder) else set()
        if "format.json" in names:
            raise NotAStore(
                f"{self.folder} is a store: with JEEP_STORE_URL, JEEP_STORE is a folder of the "
                "follower's own, for what it fetches"
            )
        if (strangers := names - {MARK, _LOCK, LOST_AND_FOUND}) and MARK not in names:
            raise NotAStore(
                f"{self.folder} holds {min(strangers)}: with JEEP_STORE_URL, JEEP_STORE is a "
                "folder of the follower's own, for what it fetches"
            )

    def known(self) -> Path | None:
        """The copy of the store that was followed last, None if there is none to be used."""
        try:
            root = self.folder / followed_id(self.folder)
        except (NotAStore, CorruptFile):
            return None
        return root if is_folder(root) else None

    def enter(self, store_id: str) -> Path:
        """The folder of a store's copy, made if it is new; those of other stores are removed."""
        root = self.folder / store_id
        replace(self.folder / MARK, encode(Followed(id=store_id)))  # the folder is ours from here
        for other in self.folder.iterdir():
            if other.name not in (store_id, LOST_AND_FOUND) and is_folder(other / "versions"):
                shutil.rmtree(other, ignore_errors=True)
        for name in FOLDERS:
            (root / name).mkdir(parents=True, exist_ok=True)
        for left in _below(root):
            # of a process that was killed: nobody writes now
            if left.name.startswith(".") and left.name.endswith(TEMPORARY):
                left.unlink(missing_ok=True)
        return root

    def trim(self, kept: Collection[Path], limit: int | None = None) -> int:
        """Remove what was used least recently until the limit holds; return the size after that.

        ``kept`` are never removed, though the limit be exceeded, nor is what cannot be fetched
        again: locks, on which others may wait, and files that are being written.
        """
        limit = self.limit if limit is None else limit
        with self._trimming:
            files = sorted(self._files())
            size = sum(one for _, one, _ in files)
            for _, one, path in files:
                if size <= limit:
                    break
                if path not in kept and self._is_fetched(path):
                    path.unlink(missing_ok=True)
                    size -= one
        if size > limit and not self._told:
            log.warning(
                "%s: %s bytes are in use, more than JEEP_STORE_CACHE_MB allows", self.folder, size
            )
        self._told = size > limit
        return size

    def _is_fetched(self, path: Path) -> bool:
        _, *inside = path.relative_to(self.folder).parts
        return len(inside) > 1 and inside[0] in FETCHED and not is_unfinished(path.name)

    def _files(self) -> list[tuple[float, int, Path]]:
        """When each file was last used, its size, and where it is."""
        found = []
        for path in _below(self.folder):
            with suppress(OSError):  # removed, or put into place, meanwhile
                seen = path.stat()
                if is_plain_file(path):
                    found.append((seen.st_mtime, seen.st_size, path))
        return found


def _below(folder: Path) -> Iterator[Path]:
    """The files below a folder, whose folders may vanish meanwhile."""
    walk = walked(folder, onerror=None)
    return (Path(path, name) for path, _, names in walk for name in names)
