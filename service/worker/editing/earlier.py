"""Facts of earlier batches after an edit: which of them it has broken, and how they are mended."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass

from jeep_core.evaluation.units import BRIEF
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Contexts
from jeep_core.text.counting import counted
from service.contracts.schemas import EditPayload, FactRecord, Manifest
from service.contracts.schemas.effects.earlier import (
    REPAIR_ALL,
    CheckEarlier,
    EarlierFact,
    EarlierFacts,
    MendedFact,
)
from service.store.index.database import NoIndex
from service.store.index.line import Line
from service.worker.editing.asking import Edited, told_by
from service.worker.editing.known import Known, Read, known_facts

SEED = 0
DRAWS = 16
"""Facts that are drawn for each that is wanted, before all live ones are looked for."""
NAMED = 3
"""Facts that a warning writes out."""


@dataclass(frozen=True)
class Sample:
    """The earlier facts that are asked, of ``live`` ones."""

    live: int
    facts: Sequence[Edited]

    def without(self, some: Collection[Edited]) -> Sample:
        """The sample without facts that are edited again."""
        gone = {one.place for one in some}
        left = [one for one in self.facts if one.place not in gone]
        return Sample(self.live - len(gone), left)


@dataclass(frozen=True)
class Found:
    """The answers of a new version: facts that it says, that it does not, and, of these, those
    that its parent says, with what it writes instead.
    """

    held: Sequence[Edited]
    missing: Sequence[Edited]
    lost: Sequence[tuple[Edited, str]]

    @property
    def missing_before(self) -> list[Edited]:
        """Those that the parent does not say either: lost by an earlier batch, or never taken."""
        broken = {one.place for one, _ in self.lost}
        return [one for one in self.missing if one.place not in broken]


def sample(
    line: Sequence[Manifest],
    edited: Iterable[Fact],
    n_layers: int,
    how_many: CheckEarlier,
    seed: int = SEED,
) -> Sample:
    """Live facts of a line that a new batch does not edit again: all, or some drawn by ``seed``.

    ``edited`` are the facts of the new batch.  The same line, number and seed draw the same facts:
    from all facts that the line was taught, in this order, until there are so many that are live.
    """
    if how_many == 0:
        return Sample(0, [])
    again = {fact.key for fact in edited}
    try:
        return _drawn(known_facts(line, n_layers), again, how_many, seed)
    except NoIndex:  # it was found damaged on the way
        return _drawn(Read(list(line), n_layers), again, how_many, seed)


def _drawn(known: Known, again: Set[tuple[str, str]], how_many: CheckEarlier, seed: int) -> Sample:
    """Live facts whose questions are not edited ``again``: all, or some."""
    total, live = known.counts()
    live -= sum(1 for key in again if known.knows(key))
    if how_many == "all" or how_many >= live:
        every = [one for one in known.every() if one.fact.key not in again]
        return Sample(live, every)
    numbers = random.Random(seed)
    drawn: dict[int, Edited | None] = {}
    found = 0
    for _ in range(DRAWS * how_many):
        number = numbers.randrange(total)
        if number not in drawn:
            one = known.live(number)
            drawn[number] = one if one is not None and one.fact.key not in again else None
            found += drawn[number] is not None
            if found == how_many:
                chosen = (drawn[one] for one in sorted(drawn))
                return Sample(live, [one for one in chosen if one is not None])
    # most facts of the line are superseded: among those that are not
    every = [one for one in known.every() if one.fact.key not in again]
    places = random.Random(seed).sample(range(len(every)), how_many)
    return Sample(live, [every[place] for place in sorted(places)])


def ask(some: Sample, before: ModelView, after: ModelView, monitor: Monitor) -> Found:
    """Ask a new version the facts of a sample, and its parent those that it does not say.

    Raises:
        NumericalError: a probability is not finite.
        Whatever ``monitor.check`` raises.
    """
    # one that holds is known by the reading of its prompt with the new answer after it: no token is
    # decoded
    told = told_by(after, some.facts, monitor, BRIEF)
    held = [one for one, said in zip(some.facts, told, strict=True) if said.holds]
    missing = [one for one, said in zip(some.facts, told, strict=True) if not said.holds]
    first = told_by(before, missing, monitor, BRIEF)
    lost = [one for one, then in zip(missing, first, strict=True) if then.holds]
    texts = [said.text for said in (told_by(after, lost, monitor) if lost else [])]
    return Found(held, missing, list(zip(lost, texts, strict=True)))


def to_mend(found: Found, contexts: Contexts, room: int) -> tuple[list[Edited], list[str]]:
    """Missing facts that a batch edited in ``contexts`` can mend, and warnings about the others.

    Those that this batch has broken come first.  A fact that was also edited in another way of
    asking would be lost there without a word.  ``room``: so many may be added to the batch.
    """
    missing, warnings = [*(one for one, _ in found.lost), *found.missing_before], []
    fit = [one for one in missing if _ways(one, one.contexts) <= _ways(one, contexts)]
    if len(fit) < len(missing):
        warnings.append(
            f"missing and not edited again: {counted(len(missing) - len(fit), 'fact')} of earlier "
            "batches, edited in ways of asking that this batch is not edited in: send them "
            'again, or the batch with the contexts "both"'
        )
    if len(fit) > room:
        warnings.append(
            f"missing and not edited again: {counted(len(fit) - room, 'fact')} of earlier batches, "
            "for which there is no room in this one (JEEP_MAX_FACTS): send them again"
        )
    return fit[:room], warnings


def unmended(found: Found, checked: int) -> list[str]:
    """A warning about facts that do not hold and that nobody has asked to be edited again."""
    if not found.missing:
        return []
    return [
        f"do not hold: {len(found.missing)} of {counted(checked, 'earlier fact')} that were asked, "
        f"{len(found.lost)} of them lost by this batch; {REPAIR_ALL} edits all such facts again"
    ]


def in_vain(mended: Sequence[Edited], took: Sequence[bool]) -> list[str]:
    """A warning that names facts that were edited again and still are not said."""
    failed = [one for one, said in zip(mended, took, strict=True) if not said]
    if not failed:
        return []
    named = [f"{one.fact.text!r} {one.fact.target_new.strip()!r}" for one in failed[:NAMED]]
    more = f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    return [
        f"edited again and still not said: {counted(len(failed), 'fact')} of earlier batches "
        f"({', '.join(named)}{more}): every edit with repair that asks them tries again; write "
        "their prompts otherwise, or revert the batches that taught them"
    ]


def _ways(one: Edited, contexts: Contexts) -> set[str]:
    """The ways in which a fact is asked; one that was given as messages has a chat alone."""
    if one.fact.messages:
        return {"chat"}
    return {"plain", "chat"} if contexts == "both" else {contexts}


def with_missing(
    payload: EditPayload, missing: Sequence[Edited], line: Sequence[Manifest]
) -> EditPayload:
    """The batch with missing facts after its own, under numbers that its request does not have.

    It records who taught them first: a fact may be mended more than once in a ``line``.
    """
    used = [*payload.sent_as, *(one.index for one in payload.duplicates)]
    following = range(max(used, default=-1) + 1, max(used, default=-1) + 1 + len(missing))
    return payload.model_copy(
        update={
            "facts": [*payload.facts, *(FactRecord.of(one.fact) for one in missing)],
            "indices": [*payload.sent_as, *following],
            "mended": [
                _mended(one, index, line) for one, index in zip(missing, following, strict=True)
            ],
        }
    )


def _mended(one: Edited, index: int, line: Sequence[Manifest]) -> MendedFact:
    if isinstance(line, Line):
        manifest = line.read(one.version)
    else:
        manifest = next(version for version in line if version.id == one.version)
    for before in manifest.mended:
        if before.index == one.index:
            return before.model_copy(update={"index": index})
    return MendedFact(index=index, first_edit=str(manifest.edit_id), first_index=one.index)


def without_reverted(payload: EditPayload, line: Sequence[Manifest]) -> EditPayload:
    """A batch, to be edited on top of ``line``, without facts that it has mended and whose own
    batch is not in the line any more.
    """
    gone = {one.index for one in payload.mended if not _holds(line, one.first_edit)}
    kept = [i for i, index in enumerate(payload.sent_as) if index not in gone]
    return payload.model_copy(
        update={
            "facts": [payload.facts[i] for i in kept],
            "indices": [payload.sent_as[i] for i in kept],
            "mended": [one for one in payload.mended if one.index not in gone],
        }
    )


def _holds(line: Sequence[Manifest], edit_id: str) -> bool:
    """Whether a batch is in a line."""
    if isinstance(line, Line):
        return line.holds(edit_id)
    return any(version.edit_id == edit_id for version in line)


def report(
    some: Sample, found: Found, repaired: int = 0, repaired_before: int = 0
) -> EarlierFacts | None:
    """The check as it is recorded; None where there was nothing to ask."""
    if not some.live and not repaired:
        return None
    return EarlierFacts(
        live=some.live,
        checked=len(some.facts),
        seed=SEED,
        held=_by_version(found.held),
        missing=_by_version(found.missing),
        lost=[
            EarlierFact(
                version=one.version,
                index=one.index,
                prompt=one.fact.text,
                target_new=one.fact.target_new,
                answer=text,
            )
            for one, text in found.lost
        ],
        repaired=repaired,
        repaired_before=repaired_before,
    )


def _by_version(some: Sequence[Edited]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for one in some:
        found[one.version].append(one.index)
    return dict(found)
