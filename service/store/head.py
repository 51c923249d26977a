"""Head and names, which refer to versions.  Replacing ``head.json`` is the commit."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from pydantic import BaseModel, ConfigDict, RootModel

from jeep_core.storage.records import unsealed
from service.contracts.jobs import now
from service.contracts.schemas import Manifest
from service.store.errors import (
    BadName,
    CorruptFile,
    HeadMoved,
    NameTaken,
    StaleFence,
    UnknownVersion,
)
from service.store.files import append_line, encode, locked, read, replace
from service.store.versions import BASE, Versions

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_ID_LIKE = re.compile(r"v[0-9]+")


class Move(BaseModel):
    """One line of the reflog: ``previous`` is the version head came from."""

    model_config = ConfigDict(frozen=True)

    when: datetime
    who: str
    previous: str | None
    to: str
    why: str
    job_id: str | None = None


class Head(BaseModel):
    """The committed version, the job that made it head, and the fence of the worker.

    ``move`` is the reflog's last line, so that a reflog cut off by a crash can be completed.
    """

    model_config = ConfigDict(frozen=True)

    version: str
    job_id: str | None
    fence: int
    move: Move


class Names(RootModel[dict[str, str]]):
    """``names.json``: snapshot name → version id."""


class Pointers(Versions):
    """Head, its history, and snapshot names."""

    _fence: int | None = None

    def claim(self, fence: int) -> None:
        """Become the only writer from now on: writes of a worker with an older fence are refused,
        even if it has not noticed yet that its lease is gone.

        Raises :class:`StaleFence` if a later worker has claimed the store.
        """
        with locked(self.root / "locks" / "head"):
            head = self._repair()
            if fence < head.fence:
                raise StaleFence(f"fence {fence} is older than head's ({head.fence})")
            self._fence = fence
            try:
                replace(self.root / "head.json", encode(head.model_copy(update={"fence": fence})))
            except OSError as error:  # then an older worker cannot commit either
                log.error("this worker's fence is not recorded: %s", error)

    def check_claim(self) -> None:
        """Raise :class:`StaleFence` if a later worker has claimed the store since `claim`."""
        if self.is_replaced():
            raise StaleFence(f"fence {self._fence} is older than head's")

    def is_replaced(self) -> bool:
        """Whether a later worker has claimed the store since `claim`."""
        return self._fence is not None and self._fence < self.head().fence

    @contextmanager
    def _as_writer(self) -> Iterator[None]:
        with locked(self.root / "locks" / "head"):
            self.check_claim()
            yield

    def create_base(self, weights_sha256: str) -> Manifest:
        """Write ``v0`` and head unless they are there; WrongModel if made from other weights."""
        base = super().create_base(weights_sha256)
        with locked(self.root / "locks" / "head"):
            if self._is_new():
                self._commit(Move(when=now(), who="store", previous=None, to=BASE, why="base"), 0)
        return base

    def head(self) -> Head:
        """The committed version; :class:`UnknownVersion` before any model was bound.

        If ``head.json`` is damaged, head is the reflog's last entry; the worker's next start,
        or the next commit, rewrites the file.
        """
        try:
            head = read(self.root / "head.json", Head)
        except CorruptFile as error:
            return self._head_of_reflog(error)
        if head is not None:
            return head
        if self._is_new():
            raise UnknownVersion("head")
        return self._head_of_reflog(CorruptFile(f"{self.root / 'head.json'} is missing"))

    def _is_new(self) -> bool:
        """Whether head has never been written, so that no edit has been made either."""
        files = (self.root / name for name in ("head.json", "reflog.jsonl"))
        return not any(path.exists() for path in files) and max(self._numbers(), default=0) == 0

    def _head_of_reflog(self, error: CorruptFile) -> Head:
        """Head by the reflog's last line; ``error`` if that is damaged, too, or there is none.

        The fence is not in the reflog, so the lease's own counter is relied on.
        """
        move = self._last_move()
        if move is None:
            raise CorruptFile(f"{error}, and the reflog's last line cannot be read") from None
        self._say_once(f"head.json is lost ({error}): by the reflog head is {move.to}")
        return Head(version=move.to, job_id=move.job_id, fence=self._fence or 0, move=move)

    def _last_move(self) -> Move | None:
        """The reflog's last whole line, None if it cannot be read or there is none."""
        lines = self._lines()
        return _parsed(lines[-1]) if lines else None

    def _lines(self) -> list[bytes]:
        """The whole lines of the reflog."""
        path = self.root / "reflog.jsonl"
        try:
            return path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CorruptFile(f"{path} cannot be read: {error.strerror}") from None

    def move_head(
        self, to: str, *, expected: str, job_id: str | None, fence: int, who: str, why: str
    ) -> Head:
        """Commit: head becomes ``to`` if it still is ``expected``.

        Raises :class:`HeadMoved`, :class:`StaleFence` if a later worker has claimed it, and
        :class:`UnknownVersion`.
        """
        self.version(to)
        with locked(self.root / "locks" / "head"):
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
            replace(self.root / "head.json", encode(head))
            append_line(self.root / "reflog.jsonl", encode(move))
        except OSError as error:  # a full disk; the next commit or start completes the reflog
            if not self._is_written(head):
                raise
            log.error("%s is head; its reflog line is written later: %s", move.to, error)
        return head

    def _is_written(self, head: Head) -> bool:
        try:
            return read(self.root / "head.json", Head) == head
        except CorruptFile:
            return False

    def repair_reflog(self) -> None:
        """Complete the reflog if a crash came between the commit and its line."""
        with locked(self.root / "locks" / "head"):
            self._repair()

    def _repair(self) -> Head:
        head = self.head()
        path = self.root / "reflog.jsonl"
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            replace(path, whole)
        if self._last_move() != head.move:
            append_line(path, encode(head.move))
        return head

    def reflog(self) -> list[Move]:
        """Every move of head, oldest first."""
        moves, path = [_parsed(line) for line in self._lines()], self.root / "reflog.jsonl"
        if None in moves:
            message = f"{path} has a damaged line, number {moves.index(None) + 1}"
            raise CorruptFile(f"{message}: jeep store verify says what can be done")
        return [move for move in moves if move is not None]

    def move_of(self, job_id: str) -> Move | None:
        """The move of head that a job has made; a job makes at most one."""
        last = self.head().move  # its line may be missing in the reflog
        if last.job_id == job_id:
            return last
        return next((move for move in self.reflog() if move.job_id == job_id), None)

    def committed(self) -> set[str]:
        """The versions that are or were head, and all versions that these are built on.

        Unreadable lines of the reflog are skipped: the versions they name keep their tensors.
        Of a damaged version it is not known what it was built on.
        """
        found: set[str] = set()
        moves = [_parsed(line) for line in self._lines()]
        if None in moves:
            self._say_once(f"{self.root / 'reflog.jsonl'} has a line that cannot be read")
        for tip in {self.head().version, *(move.to for move in moves if move is not None)}:
            version: str | None = tip
            while version is not None and version not in found:
                found.add(version)
                version = self.version(version).parent if self.is_readable(version) else None
        return found

    def name_version(self, name: str, version: str) -> None:
        """Name a version permanently; giving it the same name again is allowed.

        Raises :class:`BadName`, :class:`NameTaken` or :class:`UnknownVersion`.
        """
        if not _NAME.fullmatch(name) or name in ("head", "base") or _ID_LIKE.fullmatch(name):
            raise BadName(f"{name!r} cannot name a version")
        self.version(version)
        with locked(self.root / "locks" / "names"):
            names = self.names()
            if names.get(name, version) != version:
                raise NameTaken(name, names[name])
            replace(self.root / "names.json", encode(Names({**names, name: version})))

    def names(self) -> dict[str, str]:
        """Snapshot name → version id."""
        names = read(self.root / "names.json", Names)
        return names.root if names else {}

    def resolve(self, ref: str) -> str:
        """The id meant by ``head``, ``base``, ``vN`` or a name; else UnknownVersion."""
        if ref == "head":
            return self.head().version
        version_id = BASE if ref == "base" else self.names().get(ref, ref)
        try:
            return self.version(version_id).id
        except UnknownVersion:
            raise UnknownVersion(ref) from None


def _parsed(line: bytes) -> Move | None:
    """A line of the reflog, None if it is damaged."""
    try:
        return Move.model_validate_json(unsealed(line))
    except ValueError:
        return None
