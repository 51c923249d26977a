"""One try to bring a target to the version that it follows.

The server is asked first what it has: a try that was interrupted anywhere, on either side, goes on
from there.  What is loaded is recorded before it is asked for, so that no artefact is removed that
a server may read.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from jeep_core.storage.looking import is_folder
from service.contracts.jobs import now
from service.contracts.schemas import Manifest
from service.contracts.schemas.targets import Held, Proof, TargetRecord, TargetState
from service.store import Store
from service.store.versions import BASE
from service.worker.targets.connection import TargetFailed
from service.worker.targets.proof import Question, prove
from service.worker.targets.server import ARTEFACT, Offer, Seen, Server, seen_path
from service.worker.targets.workshop import Workshop

GRACE_S = 60.0
"""How long a version that is no longer wanted can still be asked for, by those who just read its
name."""


class Sync:
    """Brings one target to what it follows; ``run`` may be called again and again.

    ``reach(place)`` is called before each step that changes something, and may raise.
    """

    def __init__(
        self,
        shop: Workshop,
        store: Store,
        record: TargetRecord,
        server: Server,
        reach: Callable[[str], None] = lambda place: None,
    ) -> None:
        self._shop, self._store, self._record, self._server = shop, store, record, server
        self._reach = reach
        self._same_base, self._asked = False, False

    def run(self, asked: bool = False) -> bool:
        """Whether something was pushed.  The outcome is recorded; nothing is after an error.

        ``asked``: somebody waits for this very look, so it is recorded though nothing has changed.

        Raises:
            TargetFailed: the server is away, refuses, or answers wrongly.
            StoreError, JeepError, OSError: the version cannot be written or read.
        """
        state, began = self._store.targets.state(self._record.id), now()
        self._asked = asked
        seen = self._server.look()
        state = self._compared(state, seen)
        moved_at, manifest = self._wanted(state, began)
        plain = self._plain(manifest, seen)
        name = plain or self._server.name_of(manifest.id, self._artefact(manifest), seen)
        there = bool(plain) or self._has(seen, name, manifest)
        known = state.version == manifest.id and state.proof is not None and there
        if known and self._alias_is_right(seen, manifest):
            self._tidied(state, seen, name, moved_at)
            return False
        self._check_base(seen, state)
        if not there:
            state = self._loaded(state, manifest, name, seen)
        proof = self._proof(state, manifest, name, bool(plain))
        if not there:
            self._check_listed(state, manifest, name)
        self._reach("record")
        seconds = round((now() - began).total_seconds(), 3)
        update = {
            "version": manifest.id,
            "model": name,
            "moved_at": moved_at,
            "pushed_at": now(),
            "seconds": seconds,
            "proof": proof,
            "lost_at": None,
        }
        state = state.model_copy(update=update)
        self._store.targets.set_state(self._record.id, state)
        state = self._aliased(state, manifest, seen)
        self._tidied(state, seen, name, moved_at)
        return True

    def clear(self) -> None:
        """Unload everything of a target that was removed, then forget it.

        What a target that is not removed uses on the same server is left alone: one of the same
        name, or of the same alias, may have been added since.

        Raises:
            TargetFailed: the server is away or refuses.
        """
        state = self._store.targets.state(self._record.id)
        seen = self._server.look()
        for name in {*seen.loaded, *(held.name for held in state.held)} - {seen.base}:
            self._reach("unload")
            # without a base model names are those of artefacts, whichever target they are of
            if not any(seen.base is None or _uses(other, name) for other in self._others()):
                self._server.unload(name)
        self._store.targets.forget(self._record.id)

    def _others(self) -> list[TargetRecord]:
        """The other targets on the same server."""
        found = (one for one in self._store.targets.all() if one.server == self._record.server)
        return [one for one in found if one.id != self._record.id]

    # ------------------------------------------------------------ what is wanted, what is there

    def _wanted(self, state: TargetState, began: datetime) -> tuple[datetime, Manifest]:
        """When what the target follows came to be what it is, and the version that it is.

        Names have no history: they came to mean a version when that was seen first.
        """
        if self._record.follow != "head":
            version = self._store.names.resolve(self._record.follow)
            since = state.moved_at if state.version == version else None
            return since or began, self._store.versions.read(version)
        head = self._store.head.read()
        return head.move.when, self._store.versions.read(head.version)

    def _plain(self, manifest: Manifest, seen: Seen) -> str | None:
        """The server's own name for a version that it has without an artefact: the base model."""
        own = manifest.id == BASE and not self._server.base_needs_artefact
        return seen.base if own else None

    def _artefact(self, manifest: Manifest) -> str:
        """The name of a version's artefact."""
        return self._store.artefacts.name(manifest, self._server.format)

    def _path(self, manifest: Manifest) -> str:
        """Where the server sees a version's artefact."""
        return seen_path(self._record, self._store.artefacts.path(self._artefact(manifest)))

    def _has(self, seen: Seen, name: str, manifest: Manifest) -> bool:
        """Whether a name on the server is a version whose artefact it can still read."""
        there = is_folder(self._store.artefacts.path(self._artefact(manifest)))
        return there and seen.loaded.get(name) == self._path(manifest)

    def _compared(self, state: TargetState, seen: Seen) -> TargetState:
        """The state as the server shows it: what it has lost is forgotten, what it has is held."""
        loaded = {name: PurePosixPath(path).name for name, path in seen.loaded.items()}
        held = [one for one in state.held if loaded.get(one.name) == one.artefact]
        for name, artefact in loaded.items():
            match = ARTEFACT.fullmatch(artefact)
            if match and not any(one.name == name for one in held):
                found = Held(name=name, version=match[1], artefact=artefact, unwanted_since=now())
                held.append(found)
        update: dict[str, object] = {"held": held, "held_unknown": False}
        needs = state.version is not None and state.model != seen.base
        if self._server.base_needs_artefact:
            needs = state.version is not None
        if needs and not any(h.name == state.model and h.version == state.version for h in held):
            update |= {"version": None, "model": None, "proof": None, "lost_at": now()}
            self._same_base = False
        return state.model_copy(update=update)

    def _check_base(self, seen: Seen, state: TargetState) -> None:
        """Compare the base models, unless it is known that they are the same, or the server has
        none beside the artefacts.

        Raises:
            TargetFailed: ``other_base``.
        """
        replaced = self._server.base_needs_artefact and state.held
        if self._same_base or replaced or seen.base is None:
            return
        try:
            self._prove(seen.base, self._shop.neutral())
        except TargetFailed as error:
            if error.code != "wrong_answer":
                raise
            raise TargetFailed(
                "other_base",
                f"{seen.base} on the server is not the base model of this service: {error}",
                lasting=True,
            ) from None
        self._same_base = True

    # ------------------------------------------------------------ the steps of a push

    def _loaded(self, state: TargetState, manifest: Manifest, name: str, seen: Seen) -> TargetState:
        """Have the server load a version's artefact under a name."""
        self._reach("artefact")
        with self._shop.artefact(manifest, self._server.format) as (path, rank):
            artefact = Held(name=name, version=manifest.id, artefact=path.name)
            others = [one for one in state.held if (one.name, one.artefact) != (name, path.name)]
            state = state.model_copy(update={"held": [*others, artefact]})
            self._store.targets.set_state(self._record.id, state)
            self._reach("load")
            offer = Offer(manifest, seen_path(self._record, path), rank)
            self._server.load(name, offer, seen)
        return state

    def _proof(self, state: TargetState, manifest: Manifest, name: str, plain: bool) -> Proof:
        """The proof that the server answers as the version; it is unloaded where it does not.

        Raises:
            TargetFailed: ``wrong_answer``.
        """
        asked = self._shop.questions(manifest, state.version)
        self._reach("proof")
        try:
            return self._prove(name, asked)
        except TargetFailed as error:
            if error.code == "wrong_answer" and not plain:
                self._taken_back(state, name)
            raise

    def _taken_back(self, state: TargetState, name: str) -> None:
        """Unload what the server shall not answer by; one that replaces has no version then."""
        self._server.unload(name)
        if self._server.replaces:
            wrong = {"version": None, "model": None, "proof": None, "lost_at": now()}
            self._store.targets.set_state(self._record.id, state.model_copy(update=wrong))

    def _prove(self, model: str, asked: list[Question]) -> Proof:
        return prove(
            lambda prompts: self._server.top(model, prompts), asked, self._record.tolerance
        )

    def _alias_is_right(self, seen: Seen, manifest: Manifest) -> bool:
        alias = self._record.alias
        return alias is None or self._has(seen, alias, manifest)

    def _aliased(self, state: TargetState, manifest: Manifest, seen: Seen) -> TargetState:
        """Let the alias mean this version, of which the server has just given proof."""
        alias = self._record.alias
        if alias is None or self._alias_is_right(seen, manifest):
            return state
        state = self._loaded(state, manifest, alias, seen)
        self._check_listed(state, manifest, alias)
        return state

    def _check_listed(self, state: TargetState, manifest: Manifest, name: str) -> None:
        """Check that the server lists what it has loaded; it is unloaded where it does not.

        Every look goes by the list: it would push the version again, and count it as a success.

        Raises:
            TargetFailed: ``not_listed``.
        """
        if not self._has(self._server.look(), name, manifest):
            self._taken_back(state, name)
            raise TargetFailed(
                "not_listed",
                f"the server has loaded {name}, but does not list it with its folder "
                f"({self._path(manifest)}), so what it has cannot be seen: let the address be that "
                "of the server itself, or of something that passes its list of models on as it is",
                lasting=True,
            )

    def _tidied(self, state: TargetState, seen: Seen, name: str, moved_at: datetime) -> None:
        """Unload what has not been wanted for a while, and record the state."""
        wanted = {(name, state.version), (self._record.alias, state.version)}
        kept, moment = [], now()
        for one in state.held:
            if (one.name, one.version) in wanted:
                kept.append(one.model_copy(update={"unwanted_since": None}))
                continue
            if one.name in (name, self._record.alias):
                continue  # the name means something else now
            since = one.unwanted_since or moment
            if moment - since < timedelta(seconds=GRACE_S):
                kept.append(one.model_copy(update={"unwanted_since": since}))
                continue
            self._reach("unload")
            self._server.unload(one.name)
        update = {"held": kept, "error": None, "looked_at": moment, "moved_at": moved_at}
        after = state.model_copy(update=update)
        before = self._store.targets.state(self._record.id)
        same = after.model_copy(update={"looked_at": before.looked_at}) == before
        if not same or self._asked or self._is_old(before):
            self._store.targets.set_state(self._record.id, after)

    def _is_old(self, state: TargetState) -> bool:
        """Whether the last recorded look was so long ago that this one is recorded as well."""
        return state.looked_at is None or now() - state.looked_at > timedelta(seconds=GRACE_S)


def _uses(record: TargetRecord, name: str) -> bool:
    """Whether a name on a server is one of a target's."""
    return name == record.alias or name.rpartition("@")[0] == record.name
