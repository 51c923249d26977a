"""A file system, tried for all that the store needs of it: ``jeep store check-disk``.

A disk that is shared by machines can do all of it for the processes of one machine and yet fail
between two: then one of them holds (:func:`hold`) while the other checks.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import quote

from jeep_core.storage.looking import present
from service.store import files

HELD, BEAT = ".check-disk.lock", ".check-disk.beat"
LOG, INDEX = ".check-disk.log", ".check-disk.sqlite"
"""Hidden, so that a store can be made in a folder in which a process was killed that held."""
BEAT_S = 0.1
LEFT_S = 60.0
"""A process that wrote nothing for so long holds no more: it was killed."""
SEEN_S = 1.0
"""How old what another machine wrote may be when it is read: followers are at head within it."""
LOOKS = 10
DEAD_S = 5.0
LINES, LINE = 200, 120
OF_MACHINES = (
    "nfs", "cifs", "smb", "ceph", "9p", "lustre", "gpfs", "glusterfs", "beegfs", "afs", "ocfs2",
    "gfs2", "virtiofs", "davfs", "sshfs", "s3fs", "rclone", "gcsfuse", "goofys", "juicefs",
    "mountpoint-s3", "blobfuse", "mfs", "seaweedfs",
)  # fmt: skip
"""Beginnings of the names of file systems that several machines can mount, after ``fuse.``."""
ONE_HOST = (
    "the store's index and locks need a disk of this machine (SQLite's log in shared memory does "
    "not work across hosts): all that opens the store must be on one host, and a follower on "
    "another one fetches versions (JEEP_STORE_URL)"
)

_LOCKING = (
    "import fcntl,sys\n"
    "file=open(sys.argv[1],'ab')\n"
    "try: fcntl.flock(file,fcntl.LOCK_EX|fcntl.LOCK_NB)\n"
    "except BlockingIOError: print('refused',flush=True); sys.exit()\n"
    "print('locked',flush=True); sys.stdin.read()\n"
)
_APPENDING = (
    "import os,sys\n"
    "for _ in range(int(sys.argv[3])):\n"
    "  with open(sys.argv[1],'ab') as file:\n"
    "    file.write(sys.argv[2].encode()*int(sys.argv[4])+b'\\n')\n"
)


@dataclass(frozen=True)
class Check:
    """One thing that the store needs.  ``problem``: None where the disk does it."""

    name: str
    needed_for: str
    problem: str | None


@dataclass(frozen=True)
class Disk:
    """``kind``: the file system's name, such as ``ext4`` or ``nfs4``; ``free``: in bytes.

    ``of_machines``: several machines can mount such a file system; ``between_machines``: another
    one held a lock in the folder, so that this was tried, too.
    """

    folder: str
    kind: str
    free: int
    of_machines: bool
    between_machines: bool
    checks: list[Check]

    @property
    def sound(self) -> bool:
        """Whether a store can be there: on one host, and on several if that was tried."""
        return all(check.problem is None for check in self.checks)


def check_disk(folder: Path) -> Disk:
    """Try all that a store does with its files, in a folder of its own that is removed after.

    ``folder`` is a store, or where one is to be.

    Raises:
        OSError: nothing can be written there.
    """
    with tempfile.TemporaryDirectory(prefix=".check-disk-", dir=folder) as temporary:
        place = Path(temporary)
        checks = [_tried(*one, place) for one in _CHECKS]
    kind, held = kind_of(folder), _is_held(folder)
    if held:
        checks += [_tried(*one, folder) for one in _BETWEEN]
        one_host = f"{kind}: {ONE_HOST}" if is_of_machines(kind) else None
        checks.append(Check("the file system is of one machine", "the index", one_host))
    free = shutil.disk_usage(folder).free
    return Disk(str(folder), kind, free, is_of_machines(kind), held, checks)


def kind_of(folder: Path) -> str:
    """The name of the file system of the longest mount point above a folder."""
    import psutil  # the client does without, and loads this module for the help of its commands

    path = folder.resolve()
    mounted = [
        one for one in psutil.disk_partitions(all=True) if path.is_relative_to(one.mountpoint)
    ]
    return max(mounted, key=lambda one: len(one.mountpoint)).fstype if mounted else "unknown"


def is_of_machines(kind: str) -> bool:
    """Whether several machines can mount a file system of this name, such as ``fuse.sshfs``."""
    return kind.lower().removeprefix("fuse.").startswith(OF_MACHINES)


@contextmanager
def hold(folder: Path) -> Iterator[Callable[[], None]]:
    """Hold a lock in ``folder``; what is yielded is to be called every `BEAT_S` seconds.

    Each call replaces a file, appends to another and writes a row, for those that check to read.

    Raises:
        StoreBusy: another process already holds it.
        OSError: nothing can be written or locked there.
    """
    with files.held(folder / HELD, "jeep store check-disk --hold"), ExitStack() as stack:
        # while it is held: these are nobody else's
        stack.callback((folder / HELD).unlink, missing_ok=True)
        for name in (BEAT, LOG, INDEX, f"{INDEX}-wal", f"{INDEX}-shm"):
            (folder / name).unlink(missing_ok=True)  # of a process that was killed
            stack.callback((folder / name).unlink, missing_ok=True)
        database = stack.enter_context(closing(_held_index(folder)))
        lines = count()

        def beat() -> None:
            now = time.time()
            files.replace(folder / BEAT, json.dumps(now).encode())
            with (folder / LOG).open("ab") as file:
                file.write(f"holds {next(lines)} {'a' * LINE}\n".encode())
            with suppress(sqlite3.Error), database:  # whoever checks misses it
                database.execute("UPDATE beats SET at = ?", (now,))

        yield beat


def _held_index(folder: Path) -> sqlite3.Connection:
    try:
        database = sqlite3.connect(folder / INDEX, timeout=BEAT_S)
    except sqlite3.Error:
        return sqlite3.connect(":memory:")
    with suppress(sqlite3.Error), database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE beats (at REAL)")
        database.execute("INSERT INTO beats VALUES (?)", (time.time(),))
    return database


def _is_held(folder: Path) -> bool:
    """Whether a process holds, or held until a moment ago; clocks may differ by a minute."""
    if not present(folder / HELD):
        return False
    try:
        return time.time() - float(json.loads((folder / BEAT).read_bytes())) < LEFT_S
    except (OSError, ValueError, TypeError):
        return True  # it has just begun


def _tried(name: str, needed_for: str, attempt: Callable[[Path], str | None], place: Path) -> Check:
    try:
        return Check(name, needed_for, attempt(place))
    except (OSError, sqlite3.Error, subprocess.SubprocessError) as error:
        return Check(name, needed_for, str(error))


def _syncs(place: Path) -> str | None:
    path, what = place / "synced", "a file"
    try:
        with path.open("xb") as file:
            file.write(b"synced")
            file.flush()
            os.fsync(file.fileno())
        what = "a folder"
        files.fsync_folder(place)
    except OSError as error:
        return f"fsync of {what} fails ({error}): what was committed could be lost with the power"
    return None


def _renames(place: Path) -> str | None:
    path = place / "renamed"
    files.replace(path, b"old")
    with path.open("rb") as reader:
        files.replace(path, b"new")
        if reader.read() != b"old":
            return "a reader that had a file open saw another file's bytes after a rename"
    return None if path.read_bytes() == b"new" else "a renamed file has its old content"


def _links(place: Path) -> str | None:
    path = place / "linked"
    files.create(path, b"first")
    try:
        files.create(path, b"second")
    except FileExistsError:
        return None
    return "a file was made where there was one: hard links replace files here"


def _appends(place: Path) -> str | None:
    path = place / "appended"
    command = [sys.executable, "-c", _APPENDING, str(path)]
    running = [subprocess.Popen([*command, mark, str(LINES), str(LINE)]) for mark in ("a", "b")]
    for one in running:
        one.wait()
    lines = path.read_text().splitlines()
    whole = [line for line in lines if line in ("a" * LINE, "b" * LINE)]
    if len(whole) == len(lines) == 2 * LINES:
        return None
    return f"{len(whole)} of {2 * LINES} lines that two processes appended are there and whole"


def _locks(place: Path) -> str | None:
    path = place / "locked"
    path.touch()
    with _locking(path) as (said, kill):
        if said != "locked":
            return f"a free lock was {said}"
        if _can_lock(path):
            return "a lock that a process held was given to another one"
        kill()
        deadline = time.monotonic() + DEAD_S
        while not _can_lock(path):
            if time.monotonic() > deadline:
                return f"the lock of a killed process was not free after {DEAD_S:g} s"
            time.sleep(0.01)
    return None


@contextmanager
def _locking(path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Another process that tries to take a lock: what it says, and how it is killed."""
    command = [sys.executable, "-c", _LOCKING, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip() or "failed", process.kill
    finally:
        process.kill()
        process.communicate()


def _can_lock(path: Path) -> bool:
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _maps(place: Path) -> str | None:
    path, content = place / "mapped", os.urandom(3 * mmap.PAGESIZE + 1)
    files.write_new(path, [content])
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        if mapped[:] != content:
            return "a mapped file has other bytes than were written"
    return None


def _indexes(place: Path) -> str | None:
    with closing(sqlite3.connect(place / "index.sqlite")) as database:
        mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            return f"SQLite has no write-ahead log here but {mode!r}"
        database.execute("CREATE TABLE rows (value)")
        database.execute("INSERT INTO rows VALUES (1)")
        database.commit()
        with closing(sqlite3.connect(place / "index.sqlite")) as other:
            if other.execute("SELECT value FROM rows").fetchall() != [(1,)]:
                return "a row that was written is not seen by another connection"
    return None


def _lock_of_others(folder: Path) -> str | None:
    if _can_lock(folder / HELD):
        return (
            "a lock that another machine holds was given to this one, so two workers could write "
            "at once: mount with locks (NFS: version 4, without nolock and local_lock)"
        )
    return None


def _seen_of_others(folder: Path) -> str | None:
    late = _late(lambda: float(json.loads((folder / BEAT).read_bytes())))
    if late <= SEEN_S:
        return None
    return (
        f"what another machine wrote was seen {late:.1f} s later, or the clocks differ by "
        "that: followers would be as late (NFS: mount with actimeo=0, or noac)"
    )


def _late(written: Callable[[], float]) -> float:
    """How old what another machine writes all the time is at most when it is read, in seconds."""
    ages = []
    for _ in range(LOOKS):
        ages.append(time.time() - written())
        time.sleep(BEAT_S)
    return max(ages)


def _appended_by_others(folder: Path) -> str | None:
    path, own = folder / LOG, f"checks {os.urandom(8).hex()} "
    before = _numbers(path, "holds ")
    if not before:
        return "what another machine appends is not there"
    for number in range(LOOKS):
        with path.open("ab") as file:
            file.write(f"{own}{number} {'a' * LINE}\n".encode())
        time.sleep(BEAT_S)
    after, mine = _numbers(path, "holds "), _numbers(path, own)
    if after == before:
        return "what another machine appends was not seen"
    if mine != list(range(LOOKS)) or after != list(range(len(after))):
        return (
            "lines were lost or broken that two machines appended: NFS appends where it saw the end"
        )
    return None


def _numbers(path: Path, who: str) -> list[int]:
    """Those of the whole lines that somebody has appended, in their order."""
    whole = re.compile(rf"{who}(\d+) a{{{LINE}}}\n".encode())
    with path.open("rb") as file:
        return [int(found[1]) for line in file if (found := whole.fullmatch(line))]


def _index_of_others(folder: Path) -> str | None:
    if not present(folder / INDEX):
        return "another machine's index is not there"
    with closing(sqlite3.connect(f"file:{quote(str(folder / INDEX))}?mode=rw", uri=True)) as index:
        late = _late(lambda: _row_of(index))
    if late <= SEEN_S:
        return None
    return f"a row that another machine wrote was seen {late:.1f} s later, or the clocks differ"


def _row_of(index: sqlite3.Connection) -> float:
    row = index.execute("SELECT at FROM beats").fetchone()
    if row is None:
        raise OSError("another machine's row is not there")
    return float(row[0])


_CHECKS: tuple[tuple[str, str, Callable[[Path], str | None]], ...] = (
    ("fsync of files and folders succeeds", "all that is to survive a power failure", _syncs),
    ("a rename replaces a file at once", "head, records, versions", _renames),
    ("a file is made only where there is none", "records of versions and jobs", _links),
    ("lines that two processes append stay whole", "logs of head and audit", _appends),
    ("locks exclude other processes and end with them", "one writer at a time", _locks),
    ("files can be mapped", "tensors of versions", _maps),
    ("SQLite has its write-ahead log", "the index of versions, facts and jobs", _indexes),
)
_BETWEEN: tuple[tuple[str, str, Callable[[Path], str | None]], ...] = (
    ("locks exclude other machines", "one writer at a time", _lock_of_others),
    ("other machines' files are seen within a second", "followers", _seen_of_others),
    ("lines that two machines append stay whole", "logs of head and audit", _appended_by_others),
    ("other machines' rows are seen within a second", "the index", _index_of_others),
)
