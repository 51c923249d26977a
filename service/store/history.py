"""The batches and facts of a line of versions, from base to a tip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jeep_core.spec.facts import fill, question_key
from service.contracts.schemas import FactEntry, FactRecord, Manifest


def facts_of(line: Sequence[Manifest]) -> Iterator[FactEntry]:
    """Every fact of a line, those of the latest batch first.

    A fact that a later batch edits again is superseded by the next batch that does.
    """
    later: dict[tuple[str, str], str] = {}
    asked: dict[tuple[str, int], tuple[bool, str]] = {}
    for version in reversed(line):
        edit_id = str(version.edit_id)
        _add_checks(version, asked)
        for position, fact in enumerate(version.facts):
            superseded_by = later.get(_key(fact))
            outcome = version.result.facts[position] if version.result else None
            index = outcome.index if outcome else position
            own = (outcome.success, version.id) if outcome else (None, None)
            holds, checked_in = asked.get((version.id, index), own)
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
                holds=holds,
                checked_in=checked_in,
                created_at=version.created_at,
            )
        later.update((_key(fact), edit_id) for fact in version.facts)


def _add_checks(version: Manifest, asked: dict[tuple[str, int], tuple[bool, str]]) -> None:
    """Add to ``asked`` what a version says of earlier facts, unless a later one has said it."""
    earlier = version.result.earlier if version.result else None
    if earlier is None:
        return
    for holds, found in ((True, earlier.held), (False, earlier.missing)):
        for where, indices in found.items():
            for index in indices:
                asked.setdefault((where, index), (holds, version.id))


def without(line: Sequence[Manifest], edit_id: str) -> tuple[list[Manifest], list[Manifest]] | None:
    """The versions before a batch and those after it; None if it is not part of the line."""
    for i, version in enumerate(line):
        if version.edit_id == edit_id:
            return list(line[:i]), list(line[i + 1 :])
    return None


def _key(fact: FactRecord) -> tuple[str, str]:
    return question_key(fact.subject, fact.prompt)
