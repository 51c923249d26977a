"""MQuAKE: several rewrites and the questions that need all of them.

Each rewrite of a record becomes a case of its own, with its ``question`` for a paraphrase.  The
last of them has the record's multi-hop ``questions`` as portability, so that in file order they
are asked when every rewrite has been made, and the hops that no rewrite touches, before
(``single_hops``) and after (``new_single_hops``), as unrelated questions.  Aliases of a rewrite's
answers are those of its hop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jeep_core.suites.cases import Case, Style
from jeep_core.suites.fields import Malformed, Notes, Record, case_id, prompts, text
from jeep_core.suites.formats.counterfact import REWRITE, rewrite
from jeep_core.suites.questions import answers, asked

NAME = "mquake"
TRUE_FIELD = f"{REWRITE}/target_true"


def matches(record: Record) -> bool:
    """Whether a record looks like one of this format."""
    return isinstance(record.get(REWRITE), list)


def style(records: Sequence[Record]) -> Style:
    """Tokens of the right answer."""
    return Style.ACCURACY


def cases(record: Record, number: int, notes: Notes) -> tuple[Case, ...]:
    """One case per rewrite.

    Raises:
        Malformed: one of the rewrites or questions is of the wrong form.
        Unusable: one of the rewrites cannot be edited, as the questions need all of them.
    """
    rewrites = record.get(REWRITE)
    if not isinstance(rewrites, list) or not rewrites:
        raise Malformed(REWRITE, "not_a_list", f"{REWRITE} must be a list of rewrites")
    before, after = _hops(record, "single_hops"), _hops(record, "new_single_hops")
    found = []
    edited: set[str] = set()
    for i, one in enumerate(rewrites):
        where = f"{REWRITE}/{i}/"
        if not isinstance(one, Mapping):
            raise Malformed(where[:-1], "not_an_object", f"{where[:-1]} must be an object")
        case = Case(*rewrite(one, where, notes))
        same = prompts(one, "question", case.subject, notes, where)
        edited |= {case.text, *same}
        found.append((case, same))
    name, several = case_id(record, number), len(found) > 1
    made = [
        Case(
            case.subject,
            case.prompt,
            case.target_new,
            case.target_true,
            same,
            id=f"{name}.{i}" if several else name,
            target_aliases=_aliases(after, {case.text, *same}, case.target_new),
            true_aliases=_aliases(before, {case.text, *same}, case.target_true),
        )
        for i, (case, same) in enumerate(found)
    ]
    made[-1] = _with_questions(made[-1], record, [*before, *after], edited, notes)
    return tuple(made)


@dataclass(frozen=True)
class _Hop:
    """A fact of the chain: its question, the same as a sentence to complete, right answers."""

    question: str
    cloze: str
    right: tuple[str, ...]


def _hops(record: Record, name: str) -> list[_Hop]:
    items = record.get(name) or []
    if not isinstance(items, list):
        raise Malformed(name, "not_a_list", f"{name} must be a list of hops")
    found = []
    for i, item in enumerate(items):
        where = f"{name}/{i}"
        if not isinstance(item, Mapping):
            raise Malformed(where, "not_an_object", f"{where} must be an object")
        question = text(item, "question", f"{where}/")
        right = _right(item, "answer", "answer_alias", f"{where}/")
        found.append(_Hop(question, str(item.get("cloze") or "").strip(), right))
    return found


def _right(record: Record, answer: str, aliases: str, where: str = "") -> tuple[str, ...]:
    first: Any = record.get(answer)
    return answers([first, record.get(aliases)], f"{where}{answer}")


def _aliases(hops: list[_Hop], asked_as: set[str], answer: str | None) -> tuple[str, ...]:
    """Other right answers of the hop that a rewrite is about."""
    own = (hop.right for hop in hops if asked_as & {hop.question, hop.cloze})
    return next((tuple(t for t in right if t != answer) for right in own if answer in right), ())


def _with_questions(
    case: Case, record: Record, hops: list[_Hop], edited: set[str], notes: Notes
) -> Case:
    right = _right(record, "new_answer", "new_answer_alias")
    portability = []
    for i, question in enumerate(prompts(record, "questions", case.subject, notes)):
        portability += asked(question, right, case.subject, f"questions/{i}", notes, "questions")
    kept = {hop.question: hop for hop in hops if not edited & {hop.question, hop.cloze}}
    unrelated = []
    for hop in kept.values():
        unrelated += asked(hop.question, hop.right, case.subject, "single_hops", notes)
    return replace(case, portability=tuple(portability), unrelated=tuple(unrelated))
