"""Facts as they are asked in a chat: from messages, or from a plain prompt, to one text.

The text is what the model's template makes of the messages, up to where the assistant's answer
begins; in it, ``{}`` stands for the subject.  So it is a prompt like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from jeep_core.errors import Coded, FieldProblem, InvalidFacts, JeepError
from jeep_core.spec.facts import (
    SLOT,
    ChatForm,
    Fact,
    composed,
    find_subject,
    normalise,
    parse_facts,
)
from jeep_core.text.chat import ChatTemplate, RefusedMessages

USER, ASSISTANT = "user", "assistant"
F = TypeVar("F", bound=Fact)
_PRIVATE = range(0xE000, 0xF8FF)
"""Characters without a meaning: they mark places while a template is at work."""

NO_TEMPLATE = "the model has no chat template: give a plain prompt instead"


class UnusableMessages(Coded, ValueError):
    """Messages that a fact cannot be made of; the message says what to do."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def parse_chat_facts(
    records: Sequence[Mapping[str, Any]],
    relations: Mapping[str, str],
    chat: ChatTemplate | None,
    pointer: str = "/facts",
) -> list[Fact]:
    """As ``parse_facts``; a record may also have ``messages`` in place of ``prompt``.

    Messages are a list of objects with ``role`` and ``content``; the last one is the user's.
    The subject is ``{}`` in one of them, else the last place where a message of the user names
    it.  ``chat`` is the model's template.

    Raises:
        InvalidFacts: with a JSON pointer per wrong field.
    """
    problems: list[FieldProblem] = []
    facts: list[Fact] = []
    for i, record in enumerate(records):
        try:
            facts.append(_parsed(record, relations, chat, f"{pointer}/{i}"))
        except InvalidFacts as error:
            problems += error.problems
    if problems:
        raise InvalidFacts(problems)
    return facts


def in_chat(fact: F, chat: ChatTemplate | None, pointer: str = "/facts/0") -> F:
    """The fact with its form in a chat: its prompt is what the user says.

    A fact that has one, such as one made of messages, is returned as it is.

    Raises:
        InvalidFacts: there is no template, or it cannot take this prompt.
    """
    if fact.chat is not None:
        return fact
    try:
        form = form_of([{"role": USER, "content": fact.prompt.strip()}], fact.subject, chat)
    except UnusableMessages as error:
        raise InvalidFacts([FieldProblem(f"{pointer}/prompt", error.code, str(error))]) from None
    return replace(fact, chat=form)


def as_asked_in_chat(fact: F, chat: ChatTemplate | None) -> F:
    """The fact whose prompt is its form in a chat: what is edited, asked and scored there.

    Raises:
        InvalidFacts: as ``in_chat``.
    """
    found = in_chat(fact, chat)
    assert found.chat is not None
    target = found.target_new.lstrip()
    true = found.target_true and found.target_true.lstrip()
    return replace(
        found, prompt=found.chat.prompt, target_new=target, target_true=true, join=found.chat.join
    )


def asked(prompt: str, chat: ChatTemplate) -> str:
    """A plain prompt as the user's message, the assistant's answer begun.

    Raises:
        RefusedMessages: the template refuses it.
    """
    return chat.render([{"role": USER, "content": prompt.strip()}])


def form_of(
    messages: Sequence[Mapping[str, str]], subject: str, chat: ChatTemplate | None
) -> ChatForm:
    """The text of messages with ``{}`` for the subject, and how an answer follows it.

    Raises:
        UnusableMessages: there is no template, it refuses the messages or changes them, or they
            do not name the subject.
    """
    if chat is None:
        raise UnusableMessages("no_chat_template", NO_TEMPLATE)
    said = [dict(message, content=composed(message["content"])) for message in messages]
    which, start, length = _subject_in(said, subject)
    content = said[which]["content"]
    before, after = content[:start], content[start + length :]
    said[which]["content"] = before + subject + after
    open_, begin, end = _unused("".join(m["content"] for m in said) + chat.source + subject)
    marked = [dict(message) for message in said]
    lead = len(before) - len(before.lstrip())
    before = before[:lead] + open_ + before[lead:]
    marked[which]["content"] = before + begin + subject + end + after
    try:
        text, whole = chat.render(marked), chat.render(said)
    except RefusedMessages as error:
        raise UnusableMessages(error.code, str(error)) from None
    bare = text.translate({ord(mark): None for mark in (open_, begin, end)})
    if bare != whole or any(text.count(mark) != 1 for mark in (open_, begin, end)):
        raise UnusableMessages(
            "changed_by_template",
            "the model's chat template changes the text around the subject, so its place is not "
            "known: word the messages otherwise",
        )
    user_at = text.index(open_)
    text = text.replace(open_, "")
    first, last = text.index(begin), text.index(end)
    prompt = text[:first] + SLOT + text[last + 1 :]
    if prompt.count(SLOT) > 1:
        raise UnusableMessages(
            "many_slots",
            "the text of the chat has '{}' more than once, it can stand for the subject only: "
            "leave it out of the messages",
        )
    return ChatForm(prompt, user_at, _join(said, whole, chat))


def _parsed(
    record: Mapping[str, Any], relations: Mapping[str, str], chat: ChatTemplate | None, at: str
) -> Fact:
    """One fact; the pointers of its problems begin with ``at``."""
    given = record.get("messages")
    if not given:
        plain = {key: value for key, value in record.items() if key != "messages"}
        [fact] = _at(at, [plain], relations)
        return fact
    for field in ("prompt", "relation", "object"):
        if record.get(field) is not None:
            message = "give messages and target_new, or a prompt, or a relation: one of them"
            raise InvalidFacts([FieldProblem(f"{at}/messages", "mixed_forms", message)])
    try:
        messages = checked_messages(given)
        subject = record.get("subject")
        form = form_of(messages, normalise(subject if isinstance(subject, str) else ""), chat)
    except UnusableMessages as error:
        raise InvalidFacts([FieldProblem(f"{at}/messages", error.code, str(error))]) from None
    join = record.get("join") or "auto"
    written = {**record, "prompt": form.prompt, "join": form.join if join == "auto" else join}
    [fact] = _at(at, [written], relations)
    pairs = tuple((message["role"], message["content"]) for message in messages)
    return replace(fact, messages=pairs, chat=replace(form, join=fact.join))


def _at(at: str, records: list[Mapping[str, Any]], relations: Mapping[str, str]) -> list[Fact]:
    try:
        return parse_facts(records, relations)
    except InvalidFacts as error:
        moved = [
            replace(problem, pointer=problem.pointer.replace("/facts/0", at, 1))
            for problem in error.problems
        ]
        raise InvalidFacts(moved) from None


def checked_messages(given: Any) -> list[dict[str, str]]:
    """The messages of a fact or a question, if they are such.

    Raises:
        UnusableMessages: they are no list of messages, or the last one is not the user's.
    """
    if not isinstance(given, list | tuple):
        raise UnusableMessages("not_messages", "messages must be a list")
    found = []
    for one in given:
        role = one.get("role") if isinstance(one, Mapping) else None
        content = one.get("content") if isinstance(one, Mapping) else None
        if not isinstance(role, str) or not isinstance(content, str):
            message = "a message must be an object with the texts role and content"
            raise UnusableMessages("not_messages", message)
        found.append({"role": role, "content": content})
    if not found or found[-1]["role"] != USER:
        message = f"the last message must be of the role {USER!r}: the answer is the assistant's"
        raise UnusableMessages("last_role", message)
    return found


def _subject_in(messages: Sequence[Mapping[str, str]], subject: str) -> tuple[int, int, int]:
    """Which message has the subject, at which character, and how many characters it has there."""
    slots = [(i, m["content"].index(SLOT)) for i, m in enumerate(messages) if SLOT in m["content"]]
    count = sum(message["content"].count(SLOT) for message in messages)
    if count > 1:
        said = f"the messages have {count} '{{}}', they may have one, in place of the subject"
        raise UnusableMessages("many_slots", said)
    if slots:
        return *slots[0], len(SLOT)
    for i in reversed(range(len(messages))):
        if messages[i]["role"] == USER:
            found = find_subject(messages[i]["content"], subject)
            if found is not None:
                return i, found[0], found[1] - found[0]
    raise UnusableMessages(
        "no_subject",
        "no message has '{}', and no message of the user names the subject as a word of its own; "
        "write {} in place of the subject",
    )


def _join(messages: Sequence[Mapping[str, str]], begun: str, chat: ChatTemplate) -> Any:
    """The join of a begun turn and an answer, as the template writes it: a blank, or nothing."""
    [mark] = _unused("".join(m["content"] for m in messages) + chat.source, 1)
    try:
        whole = chat.render([*messages, {"role": ASSISTANT, "content": mark}], begin_answer=False)
    except JeepError:
        return "none"
    between, found, _ = whole[len(begun) :].partition(mark)
    spaced = whole.startswith(begun) and found and between == " "
    return "space" if spaced and not begun[-1:].isspace() else "none"


def _unused(text: str, count: int = 3) -> list[str]:
    """Characters without a meaning that a text does not have."""
    free = (chr(code) for code in _PRIVATE if chr(code) not in text)
    return [mark for mark, _ in zip(free, range(count), strict=False)]
