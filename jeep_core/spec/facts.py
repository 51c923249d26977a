"""Facts: what a user says the model should believe, validated and free of contradictions."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from jeep_core.errors import FieldProblem, InvalidFacts
from jeep_core.text.joining import JOINS, Join, joined
from jeep_core.text.words import divides, is_hangul

SLOT = "{}"
_TEXTS = ("subject", "relation", "object", "prompt", "target_new", "target_true", "join")
SAME_ANSWER = ("same_as_target", "target_true equals the new target")
"""Code and message for a fact that changes nothing."""
_LISTS = ("paraphrase_prompts", "neighborhood_prompts")


@dataclass(frozen=True)
class ChatForm:
    """A fact's question as a chat: ``prompt``, in the model's own format, has one ``{}``.

    It ends where the assistant's answer begins.  ``user_at``: the character at which the user's
    words begin.  ``join``: how an answer follows.
    """

    prompt: str
    user_at: int
    join: Join


@dataclass(frozen=True)
class Fact:
    """``prompt`` is a template with exactly one ``{}`` for the subject, ``target_new`` follows it.

    ``target_true`` is the old answer, needed by evaluation only.  ``join`` says how an answer
    follows a prompt, this one and the others.  ``chat`` is the question as a chat, if it is
    wanted.  A fact that was given as ``messages`` (role, content) has no other form: its prompt
    is that of ``chat``.
    """

    subject: str
    prompt: str
    target_new: str
    target_true: str | None = None
    paraphrase_prompts: tuple[str, ...] = ()
    neighborhood_prompts: tuple[str, ...] = ()
    join: Join = "auto"
    messages: tuple[tuple[str, str], ...] | None = None
    chat: ChatForm | None = None

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return fill(self.prompt, self.subject)

    @property
    def key(self) -> tuple[str, str]:
        """The key by which two facts are the same question."""
        return question_key(self.subject, self.prompt)

    @property
    def answered(self) -> str:
        """The prompt with the subject filled in and the new answer after it."""
        return joined(self.text, self.target_new, self.join)

    @property
    def changes_nothing(self) -> bool:
        """Whether the old answer is the new one, as both are written after the prompt."""
        true = self.target_true
        return true is not None and joined(self.text, true, self.join) == self.answered


def question_key(subject: str, prompt: str) -> tuple[str, str]:
    """The key by which two facts are the same question: subject and prompt.

    White space around the prompt counts: it makes other tokens, and another question.
    """
    return normalise(subject), composed(prompt)


def composed(text: str) -> str:
    """Unicode NFC, every blank kept."""
    return unicodedata.normalize("NFC", text)


def normalise(text: str) -> str:
    """Unicode NFC without surrounding white space."""
    return composed(text).strip()


def as_answer(text: str) -> str:
    """An answer in Unicode NFC.  White space before it is a part of it, after it none."""
    return composed(text).rstrip()


def same_answer(one: str, other: str) -> bool:
    """Whether two facts of one question say the same; the blank that joins an answer is no part."""
    return normalise(one) == normalise(other)


def fill(template: str, subject: str) -> str:
    """Put the subject in the slot; no other brace has a meaning."""
    before, _, after = template.partition(SLOT)
    return before + subject + after


def slot_span(template: str, subject: str) -> tuple[int, int]:
    """Character span [start, end) of the subject in the filled template."""
    start = template.index(SLOT)
    return start, start + len(subject)


def find_subject(text: str, subject: str) -> tuple[int, int] | None:
    """Character span [start, end) of the last place where ``text`` names the subject.

    It counts where it occurs as whole words: "York" is not in "Yorkshire", "Lyon" is in
    "Lyon's".  Scripts that write no blanks between words (Han, Kana, Thai, …) have it anywhere;
    in Korean, whose particles are part of the word, the beginning of a word will do where no
    whole word is found.  None: the text does not name the subject.  Both are compared as they
    are: bring them to Unicode NFC first.
    """
    if not subject:
        return None
    begins: int | None = None
    start = text.rfind(subject)
    while start >= 0:
        end = start + len(subject)
        if divides(text, start):
            if divides(text, end):
                return start, end
            if begins is None and is_hangul(subject[-1]) and is_hangul(text[end]):
                begins = start
        start = text.rfind(subject, 0, end - 1)
    return None if begins is None else (begins, begins + len(subject))


def parse_facts(
    records: Sequence[Mapping[str, Any]], relations: Mapping[str, str], pointer: str = "/facts"
) -> list[Fact]:
    """Facts from request records; every problem of every record is collected.

    A record has ``subject`` and either ``relation`` + ``object`` or ``prompt`` + ``target_new``.
    ``relations`` maps relation names to templates.  ``{}`` in the prompts that test a fact
    is replaced by the subject, as in its own prompt.

    Raises:
        InvalidFacts: with a JSON pointer per wrong field.
    """
    problems: list[FieldProblem] = []
    facts = [
        _parse_fact(record, relations, f"{pointer}/{i}", problems)
        for i, record in enumerate(records)
    ]
    if problems:
        raise InvalidFacts(problems)
    return [fact for fact in facts if fact is not None]


def _parse_fact(
    record: Mapping[str, Any],
    relations: Mapping[str, str],
    pointer: str,
    problems: list[FieldProblem],
) -> Fact | None:
    def problem(field: str, code: str, message: str) -> None:
        problems.append(FieldProblem(f"{pointer}/{field}", code, message))

    known = len(problems)
    for name in _not_text(record):
        message = "must be a list of texts" if name in _LISTS else "must be a text"
        problem(name, "not_text", f"{name} {message}")
    if len(problems) > known:
        return None
    subject = normalise(record.get("subject") or "")
    if not subject:
        problem("subject", "empty", "the subject is empty")
    elif SLOT in subject:
        problem("subject", "slot_in_subject", "the subject must not contain '{}'")
    triple = record.get("relation") is not None or record.get("object") is not None
    pair = record.get("prompt") is not None or record.get("target_new") is not None
    if triple and pair:
        problem(
            "relation",
            "mixed_forms",
            "give relation and object, or prompt and target_new, not parts of both",
        )
        return None
    prompt_field, target_field = ("relation", "object") if triple else ("prompt", "target_new")
    prompt = _template(record, prompt_field, subject, relations, problem)
    target = as_answer(record.get(target_field) or "")
    if not target:
        problem(target_field, "empty", "the target is empty")
    join: Join = record.get("join") or "auto"
    if join not in JOINS:
        problem("join", "unknown_join", f"join must be one of {', '.join(JOINS)}")
    if len(problems) > known or prompt is None:
        return None
    true = as_answer(record.get("target_true") or "") or None
    fact = Fact(
        subject,
        prompt,
        target,
        true,
        _filled(record.get("paraphrase_prompts"), subject),
        _filled(record.get("neighborhood_prompts"), subject),
        join,
    )
    if fact.changes_nothing:
        problem("target_true", *SAME_ANSWER)
        return None
    return fact


def _filled(prompts: Sequence[str] | None, subject: str) -> tuple[str, ...]:
    """Prompts that test a fact, with the subject for every ``{}``."""
    return tuple(composed(text).replace(SLOT, subject) for text in prompts or ())


def _not_text(record: Mapping[str, Any]) -> list[str]:
    """The fields of a record whose value is neither missing nor text, or a list of texts."""
    plain = [
        name
        for name in _TEXTS
        if record.get(name) is not None and not isinstance(record[name], str)
    ]
    lists = [
        name
        for name in _LISTS
        if record.get(name) is not None
        and not (
            isinstance(record[name], list | tuple)
            and all(isinstance(text, str) for text in record[name])
        )
    ]
    return plain + lists


def _template(
    record: Mapping[str, Any],
    field: str,
    subject: str,
    relations: Mapping[str, str],
    problem: Any,
) -> str | None:
    """The prompt template of a record, or None after reporting what is wrong with it."""
    raw = composed(record.get(field) or "")
    if not raw.strip():
        problem(field, "empty", f"{field} is missing or empty")
        return None
    if field == "relation":
        name = raw.strip()
        wrong = unknown_relation(name, relations)
        if wrong is not None:
            problem(field, "unknown_relation", wrong)
            return None
        raw = relations.get(name, raw)
    slots = raw.count(SLOT)
    if slots > 1:
        problem(field, "many_slots", f"the template has {slots} '{{}}', it needs exactly one")
        return None
    if slots == 1:
        return raw
    if field == "relation":
        return SLOT + joined(subject or "a", raw)[len(subject or "a") :]
    found = find_subject(raw, subject)
    if found is None:
        message = (
            "the prompt has neither '{}' nor the subject as a word of its own in it; "
            "write {} in place of the subject"
        )
        problem(field, "no_subject", message)
        return None
    return raw[: found[0]] + SLOT + raw[found[1] :]


def unknown_relation(text: str, relations: Mapping[str, str]) -> str | None:
    """The reason why a relation is taken for a misspelt name; None for a name, template or text.

    Without a ``{}``, one word with an underscore is a name, and so is what resembles a known
    name: one word (0.8 of difflib's ratio, upper case and separators aside), or several (0.9).
    Anything else is the text that follows the subject, such as "was born in".
    """
    if text in relations or SLOT in text:
        return None
    one_word = len(text.split()) == 1
    plain = {_plain(name): name for name in relations}
    close = get_close_matches(_plain(text), plain, n=1, cutoff=0.8 if one_word else 0.9)
    if not close and not (one_word and "_" in text):
        return None
    known = f"the known ones are {', '.join(sorted(relations)) or 'none'}."
    hint = f"did you mean {plain[close[0]]!r}?" if close else known
    return (
        f"no relation is called {text!r}; {hint} If it is the text that follows the subject, "
        f"write it as a template: '{SLOT} {text}'"
    )


def may_be_misspelt(text: str, relations: Mapping[str, str]) -> bool:
    """Whether a relation that is taken for text, ``nope``, may have been meant as a name.

    It is one word, as names are; models without named relations have none to be misspelt.
    """
    return bool(relations) and text not in relations and SLOT not in text and len(text.split()) == 1


def _plain(name: str) -> str:
    """A name in lower case, its words apart by blanks."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def deduplicate(facts: Sequence[Fact], pointer: str = "/facts") -> tuple[list[int], dict[int, int]]:
    """Indices of the facts to keep, and ``{dropped: kept}`` for repeated facts.

    Raises:
        InvalidFacts: two facts give different targets to the same text.
    """
    first: dict[tuple[str, str], int] = {}
    asked: dict[str, int] = {}
    duplicates: dict[int, int] = {}
    problems = []
    for i, fact in enumerate(facts):
        kept = asked.setdefault(composed(fact.text), i)
        if composed(facts[kept].answered) == composed(fact.answered):
            same = first.setdefault(fact.key, i)
            if same != i:
                duplicates[i] = same
        else:
            same_target = facts[kept].target_new == fact.target_new
            how = f" with join {facts[kept].join!r}" if same_target else ""
            message = (
                f"contradicts fact {kept}: {facts[kept].target_new!r}{how} for the same prompt"
            )
            problems.append(FieldProblem(f"{pointer}/{i}/target_new", "contradiction", message))
    if problems:
        raise InvalidFacts(problems)
    return [i for i in range(len(facts)) if i not in duplicates], duplicates
