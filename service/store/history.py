"""The batches and facts of a line of versions, from base to a tip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from jeep_core.spec.facts import composed, fill, normalise, question_key
from service.contracts.kinds import JobKind
from service.contracts.schemas import FactEntry, FactRecord, Manifest

Chosen = Callable[[FactRecord], bool]


@dataclass(frozen=True)
class Governing:
    """The fact that governs a question in a version, and the version whose batch wrote it."""

    fact: FactRecord
    version: str
    index: int


@dataclass(frozen=True)
class Asked:
    """A check of a fact: the version that was asked, and whether it said the target.

    ``check_id``: the check that has asked it, None where it was an edit.
    """

    version: str
    holds: bool
    check_id: str | None = None


LAST_ASKED = 16
"""How many answers to a fact its history has, the last ones, and the index of checks of it."""
Answers = Callable[[str], Mapping[tuple[str, int], tuple[bool, str]]]
"""The findings of checks of a version that was asked: by version and index of a fact, whether that
holds, and the job that has asked it last."""


def check_id_of(job_id: str) -> str | None:
    """The id of the check that is a job; None without one."""
    return JobKind.CHECK.spec.resource_id(job_id) if job_id else None


def facts_of(
    line: Sequence[Manifest],
    chosen: Chosen | None = None,
    subject: str | None = None,
    answers: Answers | None = None,
) -> Iterator[FactEntry]:
    """Every fact of a line, those of the latest batch first.

    With ``chosen`` only such facts, with ``subject`` only those about it.  ``answers``: what
    versions were asked beside their edits, which is later than what these asked.

    A fact that a later batch edits again is superseded by the next batch that does.
    """
    wanted = None if subject is None else normalise(subject)
    later: dict[tuple[str, str], str] = {}
    asked: dict[tuple[str, int], Asked] = {}
    for version in reversed(line):
        edit_id = str(version.edit_id)
        for fact_at, one in _asked_by(version, answers).items():
            asked.setdefault(fact_at, one)  # unless a later version was asked it
        facts = _about(version, wanted)
        for position, fact in facts:
            if chosen is not None and not chosen(fact):
                continue
            superseded_by = later.get(_key(fact))
            outcome = version.result.facts[position] if version.result else None
            index = outcome.index if outcome else position
            own = Asked(version.id, outcome.success) if outcome else None
            last = asked.get((version.id, index), own)
            yield FactEntry(
                subject=fact.subject,
                prompt=fact.prompt,
                text=fill(fact.prompt, fact.subject),
                target_new=fact.target_new,
                target_true=fact.target_true,
                join=fact.join,
                messages=fact.messages,
                chat_prompt=None if fact.chat is None else fact.chat.prompt,
                edit_id=edit_id,
                version=version.id,
                index=index,
                state="live" if superseded_by is None else "superseded",
                superseded_by=superseded_by,
                holds=last.holds if last else None,
                checked_in=last.version if last else None,
                check_id=last.check_id if last else None,
                created_at=version.created_at,
            )
        later.update((_key(fact), edit_id) for _, fact in facts)


def _about(version: Manifest, subject: str | None) -> list[tuple[int, FactRecord]]:
    """The facts of a version with their positions; only those about a subject, if one is given."""
    facts = list(enumerate(version.facts))
    return (
        facts if subject is None else [one for one in facts if normalise(one[1].subject) == subject]
    )


def containing(text: str) -> Chosen:
    """The facts whose subject, prompt or new answer contains a text, whatever the case."""
    wanted = composed(text).casefold()

    def contains(fact: FactRecord) -> bool:
        said = f"{fill(fact.prompt, fact.subject)}\n{fact.target_new}\n{fact.subject}"
        return wanted in composed(said).casefold()

    return contains


def governing(line: Sequence[Manifest]) -> dict[tuple[str, str], Governing]:
    """The live fact of every question that a line has edited, by `question_key`."""
    found: dict[tuple[str, str], Governing] = {}
    for version in line:
        for position, fact in enumerate(version.facts):
            found[_key(fact)] = Governing(fact, version.id, _index(version, position))
    return found


def checks_of(
    line: Sequence[Manifest], version: str, index: int, answers: Answers | None = None
) -> list[Asked]:
    """The checks of one fact in a line, oldest first: after its own edit, then of later versions.

    Of the latter the last `LAST_ASKED`.  ``version`` and ``index`` are those of its `FactEntry`;
    ``answers`` as in `facts_of`.
    """
    own: list[Asked] = []
    later: list[Asked] = []
    for one in reversed(line):
        if len(later) < LAST_ASKED:
            last = _asked_by(one, answers).get((version, index))
            later += [] if last is None else [last]
        if one.id == version:
            told = one.result.facts if one.result else []
            own = [Asked(one.id, outcome.success) for outcome in told if outcome.index == index]
            break
    return [*own, *reversed(later)]


def _index(version: Manifest, position: int) -> int:
    """The place in its request of the fact at a position of a version."""
    return version.result.facts[position].index if version.result else position


def _asked_by(version: Manifest, answers: Answers | None) -> dict[tuple[str, int], Asked]:
    """The facts that a version was asked, last by checks or else by its edit."""
    found: dict[tuple[str, int], Asked] = {}
    earlier = version.result.earlier if version.result else None
    if earlier is not None:
        for holds, some in ((True, earlier.held), (False, earlier.missing)):
            for where, indices in some.items():
                for index in indices:
                    found.setdefault((where, index), Asked(version.id, holds))
    checked = {} if answers is None else answers(version.id)
    for fact, (holds, job_id) in checked.items():
        found[fact] = Asked(version.id, holds, check_id_of(job_id))
    return found


def without(line: Sequence[Manifest], edit_id: str) -> tuple[list[Manifest], list[Manifest]] | None:
    """The versions before a batch and those after it; None if it is not part of the line."""
    for i, version in enumerate(line):
        if version.edit_id == edit_id:
            return list(line[:i]), list(line[i + 1 :])
    return None


def _key(fact: FactRecord) -> tuple[str, str]:
    return question_key(fact.subject, fact.prompt)
