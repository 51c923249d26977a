"""Head, the committed version, and the reflog.  Replacing ``head.json`` is the commit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jeep_core.storage.looking import present
from jeep_core.storage.records import unsealed
from service.contracts.jobs import now
from service.contracts.schemas.versions import Head, Move
from service.store.errors import (
    CorruptFile,
    ErrorLog,
    HeadMoved,
    StaleFence,
    UnknownVersion,
)
from service.store.files import encode, locked, read, replace
from service.store.index.moves import Moves
from service.store.versions import BASE, Versions

log = logging.getLogger(__name__)


class HeadPointer:
    """Head and its history (``store.head``), and the worker's claim to move it."""

    def __init__(self, root: Path, versions: Versions, errors: ErrorLog) -> None:
        self._root, self._versions, self._errors = root, versions, errors
        self._fence: int | None = None
        self._moves = Moves(root / "reflog.jsonl")

    def claim(self, fence: int) -> None:
        """Become the only writer from now on: writes of a worker with an older fence are refused,
        even if it has not noticed yet that its lease is gone.

        Raises :class:`StaleFence` if a later worker has claimed the store.
        """
        with locked(self._root / "locks" / "head"):
            head = self._repair()
            if fence < head.fence:
                raise StaleFence(f"fence {fence} is older than head's ({head.fence})")
            self._fence = fence
            try:
                replace(self._root / "head.json", encode(head.model_copy(update={"fence": fence})))
            except OSError as error:  # then an older worker cannot commit either
                log.error("this worker's fence is not recorded: %s", error)

    def check_claim(self) -> None:
        """Raise :class:`StaleFence` if a later worker has claimed the store since `claim`."""
        if self.is_replaced():
            raise StaleFence(f"fence {self._fence} is older than head's")

    def is_replaced(self) -> bool:
        """Whether a later worker has claimed the store since `claim`."""
        return self._fence is not None and self._fence < self.read().fence

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A context in which head stays where it is; :class:`StaleFence` as in `check_claim`."""
        with locked(self._root / "locks" / "head"):
            self.check_claim()
            yield

    def begin(self) -> None:
        """Make the base head, in a store that never had one."""
        with locked(self._root / "locks" / "head"):
            if self._is_new():
                self._commit(Move(when=now(), who="store", previous=None, to=BASE, why="base"), 0)

    def read(self) -> Head:
        """The committed version; :class:`UnknownVersion` before any model was bound.

        If ``head.json`` is damaged, head is the reflog's last entry; the worker's next start,
        or the next commit, rewrites the file.  One that cannot be read now is not damaged: whoever
        took head from the reflog then would take its own fence for the file's, and could move head
        after a later worker has claimed it.

        Raises:
            CorruptFile: both are damaged.
            OSError: it cannot be read now.
        """
        try:
            head = read(self._root / "head.json", Head)
        except CorruptFile as error:
            return self._head_of_reflog(error)
        if head is not None:
            return head
        if self._is_new():
            raise UnknownVersion("head")
        return self._head_of_reflog(CorruptFile(f"{self._root / 'head.json'} is missing"))

    def _is_new(self) -> bool:
        """Whether head has never been written, so that no edit has been made either."""
        files = (self._root / name for name in ("head.json", "reflog.jsonl"))
        return not any(present(path) for path in files) and self._versions.newest_number() == 0

    def _head_of_reflog(self, error: CorruptFile) -> Head:
        """Head by the reflog's last line; ``error`` if that is damaged, too, or there is none.

        The fence is not in the reflog, so the lease's own counter is relied on.
        """
        move = self._last_move()
        if move is None:
            raise CorruptFile(f"{error}, and the reflog's last line cannot be read") from None
        self._errors.once(f"head.json is lost ({error}): by the reflog head is {move.to}")
        return Head(version=move.to, job_id=move.job_id, fence=self._fence or 0, move=move)

    def _last_move(self) -> Move | None:
        """The reflog's last whole line, None if it cannot be read or there is none."""
        line = self._moves.last()
        return _parsed(line) if line else None

    def _lines(self) -> list[bytes]:
        """The whole lines of the reflog."""
        return self._moves.text().split(b"\n")[:-1]

    def move(
        self, to: str, *, expected: str, job_id: str | None, fence: int, who: str, why: str
    ) -> Head:
        """Commit: head becomes ``to`` if it still is ``expected``.

        Raises :class:`HeadMoved`, :class:`StaleFence` if a later worker has claimed it, and
        :class:`UnknownVersion`.
        """
        self._versions.read(to)
        with locked(self._root / "locks" / "head"):
            head = self._repair()
            if fence < head.fence:
                raise StaleFence(f"fence {fence} is older than head's ({head.fence})")
            if head.version != expected:
                raise HeadMoved(expected, head.version)
            move = Move(when=now(), who=who, previous=expected, to=to, why=why, job_id=job_id)
            return self._commit(move, fence)

    def _commit(self, move: Move, fence: int) -> Head:
        head = Head(version=move.to, job_id=move.job_id, fence=fence, move=move)
        try:
            replace(self._root / "head.json", encode(head))
            self._moves.append(encode(move))
        except OSError as error:  # a full disk; the next commit or start completes the reflog
            if not self._is_written(head):
                raise
            log.error("%s is head; its reflog line is written later: %s", move.to, error)
        return head

    def _is_written(self, head: Head) -> bool:
        try:
            return read(self._root / "head.json", Head) == head
        except (CorruptFile, OSError):
            return False

    def repair(self) -> None:
        """Complete the reflog if a crash came between the commit and its line."""
        with locked(self._root / "locks" / "head"):
            self._repair()

    def _repair(self) -> Head:
        head = self.read()
        self._moves.cut_to_lines()
        if self._last_move() != head.move:
            self._moves.append(encode(head.move))
        return head

    def reflog(self) -> list[Move]:
        """Every move of head, oldest first."""
        moves, path = [_parsed(line) for line in self._lines()], self._root / "reflog.jsonl"
        if None in moves:
            message = f"{path} has a damaged line, number {moves.index(None) + 1}"
            raise CorruptFile(f"{message}: jeep store verify says what can be done")
        return [move for move in moves if move is not None]

    def move_of(self, job_id: str) -> Move | None:
        """The move of head that a job has made; a job makes at most one."""
        last = self.read().move  # its line may be missing in the reflog
        if last.job_id == job_id:
            return last
        try:
            line = self._moves.of_job(job_id)
            found = None if line is None else Move.model_validate_json(unsealed(line))
        except ValueError:
            self.reflog()  # says which line is damaged
            return None
        return found

    def committed(self, *, as_far_as_read: bool = False) -> set[str]:
        """The versions that are or were head, and all versions that these are built on.

        Unreadable lines of the reflog are skipped: the versions they name keep their tensors.
        Of a damaged version it is not known what it was built on; nor, ``as_far_as_read``, of one
        whose file cannot be read now, which is an error else.
        """
        found: set[str] = set()
        moves = [_parsed(line) for line in self._lines()]
        if None in moves:
            self._errors.once(f"{self._root / 'reflog.jsonl'} has a line that cannot be read")
        for tip in {self.read().version, *(move.to for move in moves if move is not None)}:
            version: str | None = tip
            while version is not None and version not in found:
                found.add(version)
                version = self._parent(version, as_far_as_read)
        return found

    def _parent(self, version: str, as_far_as_read: bool) -> str | None:
        """The parent of a version; None for the base and damaged ones."""
        if as_far_as_read:
            shown = self._versions.read_to_show(version)
            return None if shown is None else shown.parent
        if not self._versions.is_readable(version):
            return None
        return self._versions.read(version).parent


def moved_to(line: bytes) -> str | None:
    """Where a line of the reflog says that head went, None if it is damaged."""
    move = _parsed(line)
    return None if move is None else move.to


def _parsed(line: bytes) -> Move | None:
    """A line of the reflog, None if it is damaged."""
    try:
        return Move.model_validate_json(unsealed(line))
    except ValueError:
        return None
