"""The difference of two versions as a reader sees it: what is said of each fact, and how far
matrices have moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jeep_core.spec.facts import fill, question_key
from service.contracts.schemas import FactRecord, Manifest
from service.store import Store
from service.store.history import Governing, governing
from service.store.index import listing


@dataclass(frozen=True)
class Change:
    """A question that one version was taught another answer to than the other.

    ``before`` and ``after``: the facts that govern it in each, None where no edit does.
    """

    text: str
    before: Governing | None
    after: Governing | None


@dataclass
class Matrix:
    """A matrix that batches on either side have written, and by how much.

    ``before`` and ``after``: the sums of ‖Δ‖/‖W_base‖ of the batches that only one of the versions
    has; the matrix has moved from the common ancestor's by no more than that.  None where a batch
    did not record it.
    """

    name: str
    layer: int | None = None
    differs: bool = False
    before: float | None = 0.0
    after: float | None = 0.0


@dataclass(frozen=True)
class Difference:
    """Two versions, seen from ``a``.

    ``gone`` and ``come``: the batches that only ``a`` and only ``b`` have, oldest first; one that a
    revert has applied again is the same batch.
    """

    a: Manifest
    b: Manifest
    ancestor: str
    gone: Sequence[Manifest] = ()
    come: Sequence[Manifest] = ()
    changes: Sequence[Change] = ()
    matrices: Sequence[Matrix] = field(default=())

    @property
    def taught(self) -> list[Change]:
        """Questions that ``b`` has an answer for and ``a`` none."""
        return [one for one in self.changes if one.before is None]

    @property
    def untaught(self) -> list[Change]:
        """Questions that ``a`` has an answer for and ``b`` none."""
        return [one for one in self.changes if one.after is None]

    @property
    def other(self) -> list[Change]:
        """Questions that both were taught, with different answers."""
        return [one for one in self.changes if one.before and one.after]


def difference(store: Store, a: str, b: str) -> Difference:
    """The difference of two versions by their ids.

    Raises:
        CorruptFile: a record of one of their lines cannot be read.
    """
    fork = listing.fork(store, a, b)
    own_a, own_b = fork.own_a, fork.own_b
    of_a, of_b = store.versions.read(a), store.versions.read(b)
    ids_a, ids_b = {one.edit_id for one in own_a}, {one.edit_id for one in own_b}
    gone = [one for one in own_a if one.edit_id not in ids_b]
    come = [one for one in own_b if one.edit_id not in ids_a]
    return Difference(
        a=of_a,
        b=of_b,
        ancestor=fork.ancestor,
        gone=gone,
        come=come,
        changes=_changes(store, fork),
        matrices=_matrices(of_a, of_b, gone, come),
    )


def _changes(store: Store, fork: listing.Fork) -> list[Change]:
    """The questions of the versions that are not shared, whose answers differ, newest first."""
    latest: dict[tuple[str, str], FactRecord] = {}
    for fact in (fact for version in [*fork.own_a, *fork.own_b] for fact in version.facts):
        latest.pop(_key(fact), None)  # its place is that of the last batch about it
        latest[_key(fact)] = fact
    before, after = governing(fork.own_a), governing(fork.own_b)
    found = []
    for key, fact in reversed(latest.items()):
        old, new = before.get(key), after.get(key)
        if old is None or new is None:
            common = _common(store, fork.ancestor, fact)
            old, new = old or common, new or common
        if (old and old.fact.target_new) != (new and new.fact.target_new):
            found.append(Change(fill(fact.prompt, fact.subject), old, new))
    return found


def _common(store: Store, ancestor: str, fact: FactRecord) -> Governing | None:
    """The fact that governs a question in the versions that both are built on."""
    found = listing.live_fact(store, ancestor, fact.subject, fact.prompt)
    if found is None:
        return None
    manifest = store.versions.read(found.version)
    return next(one for one in governing([manifest]).values() if one.index == found.index)


def _matrices(
    a: Manifest, b: Manifest, gone: Iterable[Manifest], come: Iterable[Manifest]
) -> list[Matrix]:
    hashes_a = {ref.name: ref.sha256 for ref in a.tensors}
    hashes_b = {ref.name: ref.sha256 for ref in b.tensors}
    names = sorted(hashes_a.keys() | hashes_b.keys(), key=_in_order)
    found = {name: Matrix(name, differs=hashes_a.get(name) != hashes_b.get(name)) for name in names}
    for side, batches in (("before", gone), ("after", come)):
        for batch in batches:
            _add(found, side, batch)
    return [one for one in found.values() if one.differs]


def _add(found: dict[str, Matrix], side: str, batch: Manifest) -> None:
    if batch.result is None or not batch.result.layers:
        for matrix in found.values():
            setattr(matrix, side, None)
        return
    for layer in batch.result.layers:
        matrix = found.setdefault(layer.name, Matrix(layer.name))
        matrix.layer = layer.layer
        so_far = getattr(matrix, side)
        if so_far is not None:
            setattr(matrix, side, so_far + layer.relative_norm)


def _in_order(name: str) -> list[tuple[int, int | str]]:
    """Names with their numbers in the order of numbers: layer 2 before layer 10."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in name.split(".")]


def _key(fact: FactRecord) -> tuple[str, str]:
    return question_key(fact.subject, fact.prompt)
