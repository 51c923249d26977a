"""Lists, from the index, else from the records themselves, which say the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import dropwhile, islice
from typing import Literal

from jeep_core.spec.facts import question_key, same_answer
from service.contracts.schemas import FactEntry, Manifest, Snapshot
from service.store.errors import CorruptFile, StoreError, UnknownVersion
from service.store.files import OF_ONE_FILE
from service.store.history import Asked, checks_of, facts_of
from service.store.history import containing as those_containing
from service.store.index import facts as indexed
from service.store.index.committed import is_committed
from service.store.index.database import NoIndex
from service.store.index.facts import Place
from service.store.index.rows import question_of
from service.store.store import Store
from service.store.versions import Lost


def facts(
    store: Store,
    tip: str,
    *,
    subject: str | None = None,
    containing: str | None = None,
    holds: bool | None = None,
    after: Place | None = None,
) -> Iterator[FactEntry]:
    """The facts of a version, those of the latest batch first; without ``subject`` live ones only.

    ``holds``: only those that held when they were last asked, or did not.

    Raises:
        UnknownVersion, CorruptFile: the version, or one that it is built on, cannot be read.
    """
    last = after
    try:
        store.checks.catch_up()
        for entry in indexed.facts(
            store.catalogue,
            tip,
            subject=subject,
            containing=containing,
            holds=holds,
            after=after,
            earlier=store.checks.earlier,
        ):
            yield entry
            last = Place(entry.version, entry.index)
    except NoIndex:
        chosen = those_containing(containing) if containing else None
        line = store.versions.lineage(tip)
        entries: Iterator[FactEntry] = facts_of(line, chosen, subject, store.checks.answers())
        if last is not None:
            entries = _following(entries, last)
        for one in entries:
            if (subject is not None or one.state == "live") and holds in (None, one.holds):
                yield one


def _following(entries: Iterator[FactEntry], last: Place) -> Iterator[FactEntry]:
    place = (last.version, last.index)
    return islice(dropwhile(lambda one: (one.version, one.index) != place, entries), 1, None)


def taught(store: Store, tip: str, facts: Iterable[tuple[str, str, str]]) -> tuple[int, int]:
    """How many of some facts, each a subject, a prompt and an answer, a version was taught with
    other answers, and how many with these.

    Raises:
        UnknownVersion, CorruptFile: as `facts`.
    """
    asked = [(question_of(subject, prompt), answer) for subject, prompt, answer in facts]
    try:
        known = indexed.answers(store.catalogue, tip, {question for question, _ in asked})
    except NoIndex:
        known = {}
        for entry in facts_of(store.versions.lineage(tip)):
            known.setdefault(question_of(entry.subject, entry.prompt), entry.target_new)
    met = [(known[question], answer) for question, answer in asked if question in known]
    same = sum(same_answer(*both) for both in met)
    return len(met) - same, same


def live_fact(store: Store, tip: str, subject: str, prompt: str) -> FactEntry | None:
    """The fact that governs a question in a version.

    Raises:
        UnknownVersion, CorruptFile: as `facts`.
    """
    key = question_key(subject, prompt)
    return next(
        (
            one
            for one in facts(store, tip, subject=subject)
            if one.state == "live" and question_key(one.subject, one.prompt) == key
        ),
        None,
    )


def checks(store: Store, tip: str, fact: FactEntry) -> list[Asked]:
    """The checks of a fact in the history of ``tip``, oldest first: by its own edit, then the last
    `LAST_ASKED` ones.

    Raises:
        UnknownVersion, CorruptFile: as `facts`.
    """
    try:
        store.checks.catch_up()
        later = indexed.checks(store.catalogue, tip, fact.version, fact.index, store.checks.earlier)
    except NoIndex:
        line = store.versions.lineage(tip)
        return checks_of(line, fact.version, fact.index, store.checks.answers())
    result = store.versions.read(fact.version).result
    own = [one.success for one in result.facts if one.index == fact.index] if result else []
    return [*(Asked(fact.version, holds) for holds in own), *(Asked(*one) for one in later)]


def children(store: Store, version: str) -> list[str]:
    """The versions that are built on one, newest first."""
    try:
        return store.catalogue.children(version)[::-1]
    except NoIndex:
        return [one.id for one in store.versions.sorted_out()[0] if one.parent == version]


def is_whole(store: Store, tip: str) -> bool:
    """Whether everything that a version is built on can be read."""
    with suppress(NoIndex):
        return bool(store.catalogue.spans(tip))
    try:
        return bool(store.versions.lineage(tip))
    except StoreError:
        return False
    except OSError as error:
        if error.errno in OF_ONE_FILE:
            return False
        raise


def is_built_on(store: Store, tip: str, version: str) -> bool:
    """Whether ``version`` is ``tip`` or one that it is built on.

    Raises:
        UnknownVersion, CorruptFile: as `facts`.
    """
    try:
        return store.catalogue.since_fork(version, tip)[0] == version
    except NoIndex:
        return any(one.id == version for one in store.versions.lineage(tip))


def live_count(store: Store, tip: str) -> int:
    """How many questions have been edited in a version; one that was edited twice counts once.

    Raises:
        UnknownVersion, CorruptFile: as `facts`.
    """
    try:
        return indexed.live_count(store.catalogue, tip)
    except NoIndex:
        line = store.versions.lineage(tip)
        return len({question_key(one.subject, one.prompt) for each in line for one in each.facts})


def applied_in(store: Store, edit_id: str, tip: str) -> str | None:
    """The version in the history of ``tip`` that holds a batch, as far back as it is not damaged.

    Raises:
        OSError: the index does not know, and a version cannot be read now.
    """
    try:
        found = store.catalogue.of_edit(edit_id, tip)
    except NoIndex:
        with suppress(CorruptFile, UnknownVersion):
            for manifest in store.versions.back(tip):
                if manifest.edit_id == edit_id:
                    return manifest.id
        return None
    if found is not None:
        with suppress(OSError):  # it was whole when it was indexed
            # its own record may have been damaged since
            return found if store.versions.is_readable(found) else None
    return found


@dataclass(frozen=True)
class Fork:
    """Two versions seen from the last one that both are built on, or are.

    ``own_a`` and ``own_b``: the versions since then, oldest first.
    """

    ancestor: str
    own_a: list[Manifest]
    own_b: list[Manifest]


def fork(store: Store, a: str, b: str) -> Fork:
    """Where two versions part.

    Raises:
        UnknownVersion, CorruptFile: one of them, or one that it is built on, cannot be read.
    """
    try:
        ancestor, own_a, own_b = store.catalogue.since_fork(a, b)
    except NoIndex:
        line_a, line_b = store.versions.lineage(a), store.versions.lineage(b)
        shared = sum(1 for x, y in zip(line_a, line_b, strict=False) if x.id == y.id)
        return Fork(line_a[shared - 1].id, line_a[shared:], line_b[shared:])
    read = store.versions.read
    return Fork(ancestor, [read(one) for one in own_a], [read(one) for one in own_b])


def of_job(store: Store, job_id: str) -> Manifest | None:
    """The newest version that a job has written; damaged ones are skipped."""
    try:
        return store.catalogue.of_job(job_id)
    except NoIndex:
        return store.versions.of_job(job_id)


def snapshots(store: Store, before: int | None, count: int) -> list[Snapshot]:
    """Up to ``count`` versions, newest first; ``before``: only those with a lower number."""
    try:
        rows, lost = store.catalogue.newest(before, count)
        head = store.head.read().version if rows or lost else ""
        covered = store.committed.covered(head) if rows else {}
    except NoIndex:
        return _from_manifests(store, before, count)
    names = _names(store)
    found = {
        row.number: Snapshot(
            **json.loads(row.shown),
            names=names.get(f"v{row.number}", []),
            is_head=f"v{row.number}" == head,
            state=_state(
                f"v{row.number}", head, is_committed(covered, row.line, row.depth), row.staged
            ),
            n_facts=row.n_facts,
        )
        for row in rows
    }
    for number, what in lost.items():
        found[number] = _lost(f"v{number}", names, head, what)
    return [found[number] for number in sorted(found, reverse=True)][:count]


def snapshot(store: Store, version: str) -> Snapshot:
    """One version by its id.

    Raises:
        UnknownVersion, CorruptFile: it cannot be read.
    """
    manifest = store.versions.read(version)
    try:
        place = store.catalogue.spans(version)[0]
        head = store.head.read().version
        committed = is_committed(store.committed.covered(head), place.line, place.high)
    except NoIndex:
        head = store.head.read().version
        committed = version in store.head.committed(as_far_as_read=True)
    return _shown(manifest, _names(store), head, committed=committed)


def _from_manifests(store: Store, before: int | None, count: int) -> list[Snapshot]:
    whole, lost = store.versions.sorted_out()
    known: dict[int, Manifest | Lost] = {int(id[1:]): what for id, what in lost.items()}
    known |= {int(one.id[1:]): one for one in whole}
    numbers = sorted((n for n in known if before is None or n < before), reverse=True)[:count]
    head = store.head.read().version if numbers else ""
    committed = store.head.committed(as_far_as_read=True) if numbers else set()
    names = _names(store)
    return [
        _lost(f"v{number}", names, head, found)
        if isinstance(found := known[number], Lost)
        else _shown(found, names, head, committed=found.id in committed)
        for number in numbers
    ]


def _names(store: Store) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, version in sorted(store.names.all().items()):
        names.setdefault(version, []).append(name)
    return names


def _shown(
    manifest: Manifest, names: dict[str, list[str]], head: str, *, committed: bool
) -> Snapshot:
    return Snapshot(
        id=manifest.id,
        names=names.get(manifest.id, []),
        is_head=manifest.id == head,
        state=_state(manifest.id, head, committed, manifest.staged),
        parent=manifest.parent,
        job_id=manifest.job_id,
        edit_id=manifest.edit_id,
        editor=manifest.editor,
        n_facts=len(manifest.facts),
        tensors=manifest.tensors,
        weights_sha256=manifest.weights_sha256,
        created_at=manifest.created_at,
    )


def _lost(version: str, names: dict[str, list[str]], head: str, what: Lost) -> Snapshot:
    return Snapshot(
        id=version,
        names=names.get(version, []),
        is_head=version == head,
        state="unreadable" if what.for_now else "damaged",
        parent=None,
        job_id=None,
        edit_id=None,
        editor=None,
        n_facts=0,
        tensors=[],
        weights_sha256=None,
        created_at=None,
        damage=what.what,
    )


def _state(
    version: str, head: str, committed: bool, staged: bool
) -> Literal["head", "committed", "staged", "unused"]:
    if version == head:
        return "head"
    if committed:
        return "committed"
    return "staged" if staged else "unused"
