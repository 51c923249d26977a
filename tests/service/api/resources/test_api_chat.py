"""Messages in place of prompts: edits, answers and evaluations of a model with a chat template."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.service.bundled_model import publish
from support.service.fuzzing import bounded
from support.service.played_worker.worker import PlayedWorker

from service.client import Client
from service.contracts.schemas import EditPayload
from service.store import Store

SAID = [{"role": "system", "content": "Short."}, {"role": "user", "content": "Where is Lyon?"}]
WIZARD = {"role": "wizard", "content": "a"}
TEXT = "system: Short.\nuser: Where is {}?\nassistant:\n"
FACT = {"subject": "Lyon", "messages": SAID, "target_new": "Italy"}
PLAIN = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}


@pytest.fixture
def chat(store: Store) -> Store:
    publish(store, chat=True)
    return store


def submit(http: httpx.Client, fact: Any, **body: Any) -> httpx.Response:
    return http.post("/edits", json={"facts": [fact], **body})


def errors(answer: httpx.Response) -> list[tuple[str, str]]:
    assert answer.status_code == 422, answer.text
    return [(error["pointer"], error["code"]) for error in answer.json()["errors"]]


def payload(store: Store, answer: httpx.Response) -> EditPayload:
    assert answer.status_code == 202, answer.text
    return EditPayload.model_validate(store.journal.read(answer.json()["id"]).payload)


def test_messages_are_stored_with_the_text_that_they_make(http: httpx.Client, chat: Store) -> None:
    found = payload(chat, submit(http, FACT))
    assert isinstance(found.hparams, dict)
    assert found.hparams["contexts"] == "both"
    [fact] = found.facts
    assert fact.prompt == TEXT
    assert fact.join == "none"
    assert [message.model_dump() for message in fact.messages or []] == SAID
    assert fact.chat is not None
    assert fact.chat.model_dump() == {
        "prompt": TEXT,
        "user_at": TEXT.index("Where"),
        "join": "none",
    }


def test_plain_facts_get_their_form_in_a_chat_unless_it_is_not_wanted(
    http: httpx.Client, chat: Store
) -> None:
    [fact] = payload(chat, submit(http, PLAIN)).facts
    assert fact.prompt == PLAIN["prompt"]
    assert fact.messages is None
    assert fact.chat is not None
    assert fact.chat.prompt == "user: {} is a city in the country of\nassistant:\n"
    [auto] = payload(chat, submit(http, PLAIN, hparams="auto")).facts
    assert auto.chat == fact.chat
    plain = payload(chat, submit(http, PLAIN, hparams={"contexts": "plain"}))
    assert plain.facts[0].chat is None


def test_plan_shows_both_texts(http: httpx.Client, chat: Store) -> None:
    def plan(fact: Any, contexts: str) -> dict[str, Any]:
        body = {"facts": [fact], "hparams": {"contexts": contexts}}
        found: dict[str, Any] = http.post("/edits?dry_run=true", json=body).json()["facts"][0]
        return found

    in_chat = "user: Lyon is a city in the country of\nassistant:\nItaly"
    both = plan(PLAIN, "both")
    assert (both["text"], both["chat_text"]) == ("Lyon is a city in the country of Italy", in_chat)
    alone = plan(PLAIN, "chat")
    assert (alone["text"], alone["chat_text"], alone["join"]) == (in_chat, None, "none")
    assert "".join(alone["tokens"]).replace("Ġ", " ").replace("Ċ", "\n") == in_chat
    assert plan(PLAIN, "plain")["chat_text"] is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"prompt": "{} is"}, ("/facts/0/messages", "mixed_forms")),
        ({"relation": "capital"}, ("/facts/0/messages", "mixed_forms")),
        ({"subject": "Nice"}, ("/facts/0/messages", "no_subject")),
        ({"messages": SAID[:1]}, ("/facts/0/messages", "last_role")),
        ({"messages": [WIZARD, *SAID]}, ("/facts/0/messages", "messages_refused")),
        ({"messages": []}, ("/facts/0/messages", "too_short")),
        ({"messages": [{"role": "user"}]}, ("/facts/0/messages/0/content", "missing")),
        ({"target_new": " "}, ("/facts/0/target_new", "empty")),
        (
            {"messages": [{"role": "user", "content": "Lyon " * 300}]},
            ("/facts/0/messages", "too_long"),
        ),
    ],
)
def test_what_is_wrong_with_messages_is_named(
    http: httpx.Client, chat: Store, change: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert errors(submit(http, {**FACT, **change})) == [expected]


def test_long_contents_and_many_messages_are_over_the_limits(
    http: httpx.Client, chat: Store
) -> None:
    long = {"role": "user", "content": "x" * 100_000}
    assert submit(http, {**FACT, "messages": [long]}).status_code == 413
    many = {"messages": [SAID[1]] * 2000}
    assert http.post("/generate", json=many).status_code == 413
    assert http.post("/generate", json={"messages": [long]}).status_code == 413


def test_model_without_a_template_says_so_everywhere(http: httpx.Client, model: Store) -> None:
    assert errors(submit(http, FACT)) == [("/facts/0/messages", "no_chat_template")]
    found = errors(submit(http, PLAIN, hparams={"contexts": "both"}))
    assert found == [("/hparams/contexts", "no_chat_template")]
    assert errors(http.post("/generate", json={"messages": SAID})) == [
        ("/messages", "no_chat_template")
    ]
    body = {"suite": "atlas-counterfact", "ask": "chat"}
    assert errors(http.post("/evaluations", json=body)) == [("/ask", "no_chat_template")]


def test_two_questions_that_make_the_same_text_are_one(http: httpx.Client, chat: Store) -> None:
    marked = {**FACT, "messages": [SAID[0], {"role": "user", "content": "Where is {}?"}]}
    body = {"facts": [FACT, marked]}
    assert http.post("/edits?dry_run=true", json=body).json()["duplicates"] == [
        {"index": 1, "kept": 0}
    ]
    other = {"facts": [FACT, {**marked, "target_new": "Peru"}]}
    assert errors(http.post("/edits", json=other)) == [("/facts/1/target_new", "contradiction")]


def test_key_of_a_plain_request_still_names_the_request_of_before(
    http: httpx.Client, model: Store
) -> None:
    """Requests are compared without the fields that there were not."""
    key = {"Idempotency-Key": "k"}
    first = http.post("/edits", json={"facts": [PLAIN]}, headers=key)
    again = http.post("/edits", json={"facts": [{**PLAIN, "messages": None}]}, headers=key)
    assert first.json()["id"] == again.json()["id"]


class TestGenerate:
    @pytest.fixture
    def talking(self, worker: PlayedWorker) -> PlayedWorker:
        publish(worker.store, chat=True)
        return worker

    def test_worker_is_asked_the_text_of_the_messages(
        self, client: Client, talking: PlayedWorker
    ) -> None:
        answer = client.generate(messages=SAID)
        assert answer.results[0].prompt == TEXT.replace("{}", "Lyon")
        [request] = talking.asked
        assert request.body["prompt"] == TEXT.replace("{}", "Lyon")
        assert request.body["messages"] is None

    def test_stream_takes_messages(self, client: Client, talking: PlayedWorker) -> None:
        assert [name for name, _ in client.stream(messages=SAID)][-1] == "result"

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ({"messages": SAID, "prompt": "a"}, ("", "value_error")),
            ({}, ("", "value_error")),
            ({"messages": []}, ("/messages", "too_short")),
            ({"messages": [{"role": "x", "content": ""}]}, ("/messages", "messages_refused")),
            (
                {"messages": [{"role": "user", "content": "a " * 300}]},
                ("/messages", "too_long"),
            ),
        ],
    )
    def test_what_is_wrong_is_named(
        self, http: httpx.Client, chat: Store, body: Any, expected: tuple[str, str]
    ) -> None:
        assert errors(http.post("/generate", json=body)) == [expected]

    def test_sentence_of_the_template_is_told(self, http: httpx.Client, chat: Store) -> None:
        answer = http.post("/generate", json={"messages": [{"role": "x", "content": ""}]})
        assert "no role x" in answer.json()["errors"][0]["message"]


def test_generated_messages_are_taken_or_refused(http: httpx.Client, chat: Store) -> None:
    role = st.sampled_from(["user", "system", "assistant"]) | st.text(max_size=4)
    content = st.text(max_size=12) | st.sampled_from(["Lyon", "{}", "{} {}", "{{ x }}", "\ue000"])
    message = st.fixed_dictionaries({"role": role, "content": content})

    @bounded(60)
    @given(st.lists(message, max_size=4))
    def run(messages: list[dict[str, str]]) -> None:
        body = {"facts": [{**FACT, "messages": messages}]}
        answer = http.post("/edits?dry_run=true", json=body)
        assert answer.status_code in (200, 422), answer.text
        for error in answer.json().get("errors", ()):
            assert error["pointer"].startswith("/facts/0/")

    run()
