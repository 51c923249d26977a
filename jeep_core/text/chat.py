"""Messages of a chat as one text, by the template that a model brings.

A template is a program in Jinja's language.  It runs in Jinja's sandbox, with the settings and
functions that transformers gives it, so that both write the same text; no torch is needed.
Jinja is imported when a template is run: whoever only names these classes needs none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from jeep_core.errors import JeepError, UnsupportedModel, reason_of

Message = Mapping[str, Any]
"""``role`` and ``content``, both texts; further fields are given to the template as they are."""


class NoTemplate(JeepError):
    """The model has no chat template."""

    code = "no_chat_template"


class RefusedMessages(JeepError):
    """The template does not accept these messages; the sentence is the template's own."""

    code = "messages_refused"


@dataclass(frozen=True)
class ChatTemplate:
    """The program of a template, and the special tokens by name (``bos_token``, …) for it."""

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    def render(self, messages: Sequence[Message], begin_answer: bool = True) -> str:
        """The text of the messages, up to where the assistant's answer begins.

        Without ``begin_answer`` the text ends with the last message.

        Raises:
            RefusedMessages: the template refuses them, or stumbles over them.
        """
        from jeep_core.text.templates import TemplateError, compiled

        try:
            return compiled(self.source).render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=begin_answer,
                **self.tokens,
            )
        except TemplateError as error:
            reason = error.message or type(error).__name__
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            reason = reason_of(error)
        raise RefusedMessages(f"the model's chat template refuses the messages: {reason}")

    def check(self) -> None:
        """Look whether the template is one.

        Raises:
            UnsupportedModel: it is no program in Jinja's language.
        """
        from jeep_core.text.templates import TemplateError, compiled

        try:
            compiled(self.source)
        except TemplateError as error:
            raise UnsupportedModel(
                f"the chat template cannot be read ({error.message}): copy chat_template.jinja, or "
                "tokenizer_config.json, of the model again"
            ) from None

    def to_json(self) -> str:
        """The template as a JSON object, as ``from_json`` reads it."""
        return json.dumps({"source": self.source, "tokens": dict(self.tokens)}, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> ChatTemplate:
        """The template that ``to_json`` has written."""
        record = json.loads(text)
        return ChatTemplate(record["source"], record["tokens"])


class Templated(Protocol):
    """Anything that has a template, or none: a loaded model, a published one."""

    @property
    def chat(self) -> ChatTemplate | None:
        """The model's chat template."""
        ...


def has_template(model: Templated) -> bool:
    """Whether a model has a chat template."""
    return model.chat is not None


def render(model: Templated, messages: Sequence[Message]) -> str:
    """The text of the messages in the model's own format, the assistant's answer begun.

    BOS is in it where the template writes it; ``encode`` then adds no second one.

    Raises:
        NoTemplate: the model has none.
        RefusedMessages: it refuses them.
    """
    return template_of(model).render(messages)


def template_of(model: Templated) -> ChatTemplate:
    """The chat template of a model.

    Raises:
        NoTemplate: it has none.
    """
    if model.chat is None:
        raise NoTemplate("the model has no chat template: give prompts as plain texts instead")
    return model.chat
