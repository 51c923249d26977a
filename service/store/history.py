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
    for version in reversed(line):
        edit_id = str(version.edit_id)
        for position, fact in enumerate(version.facts):
            superseded_by = later.get(_key(fact))
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
                index=version.result.facts[position].index if version.result else position,
                state="live" if superseded_by is None else "superseded",
                superseded_by=superseded_by,
                created_at=version.created_at,
            )
        later.update((_key(fact), edit_id) for fact in version.facts)


def without(line: Sequence[Manifest], edit_id: str) -> tuple[list[Manifest], list[Manifest]] | None:
    """The versions before a batch and those after it; None if it is not part of the line."""
    for i, version in enumerate(line):
        if version.edit_id == edit_id:
            return list(line[:i]), list(line[i + 1 :])
    return None


def _key(fact: FactRecord) -> tuple[str, str]:
    return question_key(fact.subject, fact.prompt)
