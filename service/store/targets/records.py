"""Targets: ``targets/<id>.json`` by the api, ``targets/<id>.state`` by the worker.

Two files, so that neither process ever writes over what the other has written.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from jeep_core.spec.naming import did_you_mean
from jeep_core.storage.looking import listed
from service.contracts.jobs import new_id, now
from service.contracts.schemas.targets import NewTarget, TargetKind, TargetRecord, TargetState
from service.store.errors import CorruptFile, StoreError
from service.store.files import create, encode, fsync_folder, locked, read, replace

log = logging.getLogger(__name__)

FOLDER = "targets"
_ID = re.compile(r"tgt_[0-9A-HJKMNP-TV-Z]{26}")


class UnknownTarget(StoreError):
    """No target has this id or name."""

    code = "unknown_target"

    def __init__(self, ref: str, names: Iterable[str] = ()) -> None:
        super().__init__(f"there is no target {ref!r}{did_you_mean(ref, names, '; ')}")
        self.ref = ref


class TargetNameTaken(StoreError):
    """A target has this name."""

    code = "name_taken"

    def __init__(self, name: str) -> None:
        super().__init__(f"a target is called {name!r}: remove it first, or choose another name")
        self.name = name


class ServerTaken(StoreError):
    """Another target would change the same thing on the same server, and each undo the other."""

    code = "server_taken"


class TooManyTargets(StoreError):
    """The limit of targets is reached."""

    code = "over_limit"


_ALONE = {
    TargetKind.SGLANG: "replaces the model of",
    TargetKind.LLAMA_CPP: "loads and unloads versions on",
}
"""Kinds of which a server can have one target, and what that one does there."""


class Targets:
    """The targets of a store (``store.targets``)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def add(self, wanted: NewTarget, most: int) -> TargetRecord:
        """Register a target.

        Raises :class:`TargetNameTaken`, :class:`ServerTaken`, :class:`TooManyTargets` where there
        are ``most`` already.
        """
        moment = now()
        record = TargetRecord(
            id=new_id("tgt"), created_at=moment, followed_since=moment, **wanted.model_dump()
        )
        with locked(self._root / "locks" / "targets"):
            known = self.all()
            if any(one.name == record.name for one in known):
                raise TargetNameTaken(record.name)
            for one in known:
                _check_together(record, one)
            if len(known) >= most:
                raise TooManyTargets(
                    f"there are {len(known)} targets, JEEP_MAX_TARGETS allows {most}: remove one"
                )
            create(self._path(record.id), encode(record))
        return record

    def follow(self, ref: str, version: str) -> TargetRecord:
        """Let a target follow something else; :class:`UnknownTarget`."""
        return self._change(ref, {"follow": version, "followed_since": now()})

    def remove(self, ref: str) -> TargetRecord:
        """Mark a target as removed, which the worker clears up; :class:`UnknownTarget`."""
        return self._change(ref, {"removed": True})

    def _change(self, ref: str, update: dict[str, object]) -> TargetRecord:
        with locked(self._root / "locks" / "targets"):
            changed = self.get(ref).model_copy(update=update)
            replace(self._path(changed.id), encode(changed))
        return changed

    def get(self, ref: str) -> TargetRecord:
        """A target by its id or name; :class:`UnknownTarget`, CorruptFile."""
        if _ID.fullmatch(ref):
            found = read(self._path(ref), TargetRecord)
            if found is not None and not found.removed:
                return found
        known = self.all()
        for one in known:
            if one.name == ref:
                return one
        raise UnknownTarget(ref, [one.name for one in known])

    def all(self) -> list[TargetRecord]:
        """All targets, oldest first; unreadable files are logged and left out."""
        return [one for one in self.with_removed() if not one.removed]

    def with_removed(self) -> list[TargetRecord]:
        """All targets, those too that the worker has yet to clear up."""
        found = []
        for path in listed(self._root / FOLDER, "*.json"):
            try:
                record = read(path, TargetRecord)
            except CorruptFile as error:
                log.error("%s", error)
                continue
            if record is not None:
                found.append(record)
        return found

    def damaged(self) -> bool:
        """Whether a record or a state cannot be read: it is unknown what the target holds."""
        for path in (self._root / FOLDER).iterdir():
            try:
                if path.suffix == ".json":
                    read(path, TargetRecord)
                elif path.suffix == ".state":
                    state = read(path, TargetState)
                    if state is not None and state.held_unknown:
                        return True
            except CorruptFile:
                return True
        return False

    def state(self, target_id: str) -> TargetState:
        """The worker's knowledge of a target; an empty one where it knows nothing.

        A damaged file counts as nothing: the worker looks at the server again.
        """
        try:
            return read(self._state_path(target_id), TargetState) or TargetState()
        except CorruptFile as error:
            log.error("%s: what the target has is found out again", error)
            return TargetState(held_unknown=True)

    def set_state(self, target_id: str, state: TargetState) -> None:
        """Record the worker's knowledge of a target.  For the worker only."""
        replace(self._state_path(target_id), encode(state))

    def ask(self, ref: str) -> TargetRecord:
        """Have the worker look at a target at once; :class:`UnknownTarget`."""
        record = self.get(ref)
        self._ask_path(record.id).touch()
        return record

    def take_asked(self, target_id: str) -> bool:
        """Whether somebody has asked for this target since the last call.  For the worker only."""
        try:
            self._ask_path(target_id).unlink()
        except FileNotFoundError:
            return False
        return True

    def forget(self, target_id: str) -> None:
        """Delete what is left of a removed target.  For the worker only."""
        for path in (self._state_path, self._ask_path, self._path):  # the record last
            path(target_id).unlink(missing_ok=True)
        fsync_folder(self._root / FOLDER)

    def _path(self, target_id: str) -> Path:
        return self._file(target_id, "json")

    def _state_path(self, target_id: str) -> Path:
        return self._file(target_id, "state")

    def _ask_path(self, target_id: str) -> Path:
        return self._file(target_id, "asked")

    def _file(self, target_id: str, suffix: str) -> Path:
        if not _ID.fullmatch(target_id):
            raise UnknownTarget(target_id)
        return self._root / FOLDER / f"{target_id}.{suffix}"


def _check_together(record: TargetRecord, other: TargetRecord) -> None:
    """Whether two targets can be kept at their versions.

    Raises:
        ServerTaken: they replace the same weights, or move the same alias.
    """
    if record.server != other.server or record.kind is not other.kind:
        return
    if record.kind in _ALONE:
        raise ServerTaken(
            f"the target {other.name!r} {_ALONE[record.kind]} the server at {other.address}, which "
            "is kept at one version only: remove it first, or let it follow another version"
        )
    if record.alias is not None and record.alias == other.alias:
        raise ServerTaken(
            f"the target {other.name!r} has the alias {record.alias!r} on the server at "
            f"{other.address}: choose another alias, or remove it first"
        )
