"""The text of messages is the one that transformers writes with the same template."""

from __future__ import annotations

import pytest
from support.library import tiny
from transformers import PreTrainedTokenizerFast

from jeep_core.errors import UnsupportedModel
from jeep_core.text.chat import (
    ChatTemplate,
    NoTemplate,
    RefusedMessages,
    has_template,
    render,
)
from jeep_core.text.encoding import encode

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
MESSAGES = [
    {"role": "system", "content": "Answer."},
    {"role": "user", "content": 'Is <b> "München"\nin Peru?'},
]
TEMPLATES = {
    "plain": tiny.CHAT,
    "trimmed": (
        "{{ bos_token }}\n{%- for message in messages %}\n"
        "    {% if message.role == 'user' %}\n[{{ message.content | trim }}]\n    {% endif %}\n"
        "{%- endfor %}\n"
    ),
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
    "breaks": "{% for m in messages %}{{ m.role }}{% break %}{% endfor %}",
    "generation": (
        "{% for m in messages %}{% generation %}\n{{ m['content'] + eos_token }}"
        "{% endgeneration %}\n{% endfor %}"
    ),
    "year": "{{ strftime_now('%Y') }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("begin", [True, False])
def test_text_is_that_of_transformers(name: str, begin: bool) -> None:
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokenizer("sentencepiece"), chat_template=TEMPLATES[name], **TOKENS
    )
    expected = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=begin)
    assert ChatTemplate(TEMPLATES[name], TOKENS).render(MESSAGES, begin) == expected


def test_bos_that_a_template_writes_is_there_once() -> None:
    base = tiny.chat_model("llama")
    text = render(base, MESSAGES)
    assert text.startswith("<s>")
    assert encode(base.tokenizer, text).tokens.count("<s>") == 1


def test_sentence_of_a_template_that_refuses_is_passed_on() -> None:
    template = ChatTemplate("{{ raise_exception('no system role, please') }}")
    with pytest.raises(RefusedMessages, match="no system role, please"):
        template.render(MESSAGES)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[7].content.strip() }}",
        "{{ 'a' + 1 }}",
        "{{ 1 // 0 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ strftime_now(3) }}",
        "{{ range(99999999) | list }}",
    ],
)
def test_template_that_stumbles_refuses_the_messages(source: str) -> None:
    with pytest.raises(RefusedMessages, match="the model's chat template refuses the messages"):
        ChatTemplate(source).render(MESSAGES)


def test_template_that_is_none_is_named() -> None:
    with pytest.raises(UnsupportedModel, match="chat template cannot be read"):
        ChatTemplate("{% for %}").check()


def test_template_goes_through_json() -> None:
    template = ChatTemplate("é {{ bos_token }}", TOKENS)
    assert ChatTemplate.from_json(template.to_json()) == template


def test_model_without_a_template_says_so() -> None:
    base = tiny.random_model("llama")
    assert not has_template(base)
    with pytest.raises(NoTemplate, match="has no chat template"):
        render(base, MESSAGES)
