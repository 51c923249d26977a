"""Facts made of messages, and facts asked in a chat: one text with one place for the subject."""

from __future__ import annotations

from typing import Any

import pytest
from support.library import tiny

from jeep_core.errors import InvalidFacts
from jeep_core.evaluation.asking import as_asked
from jeep_core.spec.chats import as_asked_in_chat, asked, in_chat, parse_chat_facts
from jeep_core.spec.facts import Fact
from jeep_core.spec.positions import check_facts, context_rows
from jeep_core.suites import Case, Question
from jeep_core.text.chat import ChatTemplate

BASE = tiny.chat_model()
CHAT = BASE.chat
SYSTEM = {"role": "system", "content": "Paris is not Lyon. Be short."}


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def parsed(messages: Any, chat: ChatTemplate | None = CHAT, **more: Any) -> Fact:
    record = {"subject": "Paris", "target_new": "Peru", "messages": messages, **more}
    [fact] = parse_chat_facts([record], {}, chat)
    return fact


def refused(messages: Any, chat: ChatTemplate | None = CHAT, **more: Any) -> tuple[str, str]:
    with pytest.raises(InvalidFacts) as found:
        parsed(messages, chat, **more)
    [problem] = found.value.problems
    return problem.pointer, problem.code


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Where is {}? Not in Paris?", "Where is {}? Not in Paris?"),
        ("Paris, and Paris: where?", "Paris, and {}: where?"),
        ("Parisian Paris Parisians", "Parisian {} Parisians"),
    ],
)
def test_subject_is_found_in_the_words_of_the_user(said: str, shown: str) -> None:
    fact = parsed([SYSTEM, user(said)])
    start = "<s>[system] Paris is not Lyon. Be short.\n[user] "
    assert fact.prompt == f"{start}{shown}\n[assistant]\n"
    assert fact.chat is not None
    assert fact.chat.prompt[fact.chat.user_at :].startswith(shown)
    assert fact.answered.endswith("[assistant]\nPeru")


def test_subject_of_an_earlier_message_is_found_and_later_ones_come_first() -> None:
    answer = {"role": "assistant", "content": "Paris? Yes."}
    assert "[user] Where is {}?\n" in parsed([user("Where is Paris?"), answer, user("So?")]).prompt
    both = parsed([user("Where is Paris?"), answer, user("Paris, I said.")])
    assert both.prompt.endswith("[user] {}, I said.\n[assistant]\n")


def test_system_message_may_have_the_subject_where_it_is_marked() -> None:
    fact = parsed([{"role": "system", "content": "About {}."}, user("Where is it?")])
    assert fact.prompt.startswith("<s>[system] About {}.\n")


def test_white_space_that_a_template_trims_moves_no_subject() -> None:
    trims = ChatTemplate("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}")
    assert parsed([user("  {} ")], trims).prompt == "[{}]"
    assert parsed([user("  Where is {}? ")], trims).prompt == "[Where is {}?]"


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([user("Where is Lyon?")], "no_subject"),
        ([user("Where is {} and {}?")], "many_slots"),
        ([SYSTEM, {"role": "assistant", "content": "Paris"}], "last_role"),
        ([{"role": "wizard", "content": "?"}, user("{}?")], "messages_refused"),
        ([{"content": "{}"}], "not_messages"),
        ("Paris?", "not_messages"),
    ],
)
def test_messages_that_make_no_fact_are_named(messages: Any, code: str) -> None:
    assert refused(messages) == ("/facts/0/messages", code)


def test_sentence_of_the_template_reaches_the_client() -> None:
    with pytest.raises(InvalidFacts, match="no role wizard"):
        parsed([{"role": "wizard", "content": "?"}, user("{}?")])


def test_model_without_a_template_takes_no_messages() -> None:
    assert refused([user("{}?")], None) == ("/facts/0/messages", "no_chat_template")


def test_prompt_and_messages_exclude_each_other() -> None:
    assert refused([user("{}?")], prompt="{} is") == ("/facts/0/messages", "mixed_forms")


def test_template_that_changes_the_words_is_refused() -> None:
    cuts = ChatTemplate("{% for m in messages %}{{ m.content[:6] }}{% endfor %}")
    assert refused([user("Where is {}?")], cuts)[1] == "changed_by_template"


def test_other_problems_of_a_fact_are_still_told_where_they_are() -> None:
    with pytest.raises(InvalidFacts) as found:
        parse_chat_facts(
            [
                {"subject": "Lyon", "prompt": "{} is", "target_new": "x"},
                {"subject": "Paris", "messages": [user("{}?")], "target_new": " "},
            ],
            {},
            CHAT,
        )
    assert [problem.pointer for problem in found.value.problems] == ["/facts/1/target_new"]


def test_answer_follows_as_the_template_writes_it() -> None:
    spaced = ChatTemplate(
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
    )
    plain = Fact("Paris", "{} is in", " Peru", join="none")
    found = as_asked_in_chat(plain, spaced)
    assert found.answered == "[INST] Paris is in [/INST] Peru"
    assert as_asked_in_chat(plain, CHAT).answered == "<s>[user] Paris is in\n[assistant]\nPeru"


def test_rows_of_a_chat_have_their_prefix_before_the_user_s_words() -> None:
    fact = in_chat(Fact("Paris", "{} is in", "Peru"), CHAT)
    plain, kl, chat = context_rows(BASE.tokenizer, fact, ["", "I"], "both")
    decode = BASE.tokenizer.decode
    assert len(plain) == 2
    assert [decode(row.ids) for row in chat] == ["[user] Paris is in\n[assistant]\nPeru"]
    rows, same, none = context_rows(BASE.tokenizer, fact, ["", "I"], "chat")
    assert (same, none) == (kl, [])
    assert decode(rows[1].ids) == "[user] I. Paris is in\n[assistant]\nPeru"
    for row in rows:
        assert decode(row.ids[: row.subject_last + 1]).endswith("Paris")
        assert decode(row.ids[: row.prediction + 1]).endswith("[assistant]\n")
        assert decode(row.ids[row.prediction + 1 :]).strip() == "Peru"


def test_fact_of_messages_is_asked_in_its_chat_only() -> None:
    fact = parsed([user("Where is {}?")])
    for contexts in ("plain", "chat"):
        rows, _, second = context_rows(BASE.tokenizer, fact, ["", "I"], contexts)  # type: ignore[arg-type]
        texts = [BASE.tokenizer.decode(row.ids) for row in rows]
        assert texts[1] == "[user] I. Where is Paris?\n[assistant]\nPeru"
        assert second == []


def test_chat_that_does_not_fit_is_refused() -> None:
    fact = in_chat(Fact("Paris", "{} is in", "Peru"), CHAT)
    [row] = check_facts(BASE.tokenizer, [fact], BASE.max_positions)
    with pytest.raises(InvalidFacts, match="tokens as a chat"):
        check_facts(BASE.tokenizer, [fact], len(row.ids) + 24)


def test_every_prompt_of_a_case_becomes_a_message() -> None:
    case = Case(
        "Paris", "{} is in", " Peru", " France", ("Is Paris in",), ("Lyon is in",),
        unrelated=(Question("Rome is in", " Italy", (" Europe",)),), generation_prompts=("Paris",),
        target_aliases=(" Perú",),
    )  # fmt: skip
    assert CHAT is not None
    [found] = as_asked([case], "chat", CHAT)
    assert found.text == asked("Paris is in", CHAT) == "<s>[user] Paris is in\n[assistant]\n"
    assert (found.target_new, found.target_true, found.join) == ("Peru", "France", "none")
    assert found.paraphrase_prompts == (asked("Is Paris in", CHAT),)
    assert found.neighborhood_prompts == (asked("Lyon is in", CHAT),)
    assert found.unrelated == (Question(asked("Rome is in", CHAT), "Italy", ("Europe",)),)
    assert found.generation_prompts == (asked("Paris", CHAT),)
    assert found.target_aliases == ("Perú",)
    assert as_asked([case], "plain", None) == [case]
