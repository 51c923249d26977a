"""Looking for files: what cannot be looked at now is an error, and not absent.

``Path.exists`` and its kin say of a file that may not be looked at, or on a disk that does not
answer, that there is none, and ``Path.glob`` that a folder is empty: which errors they take for
that depends on the version of Python.  Whoever removes, forgets or begins afresh what is not there
must not go by them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

ABSENT = (FileNotFoundError, NotADirectoryError)
"""The errors that say that there is nothing."""
LOST_AND_FOUND = "lost+found"
"""A folder at the root of a disk, which belongs to the file system and only root may look at."""


def present(path: Path) -> bool:
    """Whether there is a file or a folder.

    Raises:
        OSError: it cannot be looked at now.
    """
    return _mode(path) is not None


def is_folder(path: Path) -> bool:
    """Whether there is a folder; raises as `present`."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def is_plain_file(path: Path) -> bool:
    """Whether there is a file, and no folder or device; raises as `present`."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def listed(folder: Path, pattern: str = "*", *, within: str | None = None) -> list[Path]:
    """Paths in a folder by names like ``pattern``, in the order of names; none without a folder.

    ``within``: those in such folders of it instead.  `LOST_AND_FOUND` is never among them.

    Raises:
        OSError: a folder cannot be looked at now.
    """
    if within is not None:
        inner = (path for path in listed(folder, within) if is_folder(path))
        return [path for one in inner for path in listed(one, pattern)]
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except ABSENT:
        return []
    ours = (name for name in names if name != LOST_AND_FOUND)
    return [folder / name for name in ours if fnmatchcase(name, pattern)]


def files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All but folders, at any depth below one, without `LOST_AND_FOUND`; raises as `listed`."""
    try:
        entries = list(os.scandir(folder))
    except ABSENT:
        return
    for entry in entries:
        if entry.name == LOST_AND_FOUND:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(Path(entry.path))
        else:
            yield entry


def walked(
    folder: Path, *, onerror: Callable[[OSError], object] | None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """As ``os.walk``, without `LOST_AND_FOUND`.

    ``onerror`` is given the errors of folders that cannot be listed; None: they are passed over.
    """
    for path, folders, files in os.walk(folder, onerror=onerror):
        folders[:] = [name for name in folders if name != LOST_AND_FOUND]
        yield path, folders, files


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except ABSENT:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # links that lead to one another lead to nothing
            return None
        raise
