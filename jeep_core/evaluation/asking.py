"""Cases as a model is asked them: plainly, or each prompt as a user's message of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from jeep_core.spec.chats import as_asked_in_chat, asked
from jeep_core.suites import Case, Question
from jeep_core.text.chat import ChatTemplate

Ask = Literal["plain", "chat"]
"""How prompts are put to a model."""


def as_asked(cases: Sequence[Case], ask: Ask, chat: ChatTemplate | None) -> list[Case]:
    """The cases with the prompts that the model is given; ``chat`` is its template.

    Every prompt becomes the user's message, and what follows it the assistant's answer, without
    the white space that comes before it in a text.

    Raises:
        InvalidFacts: there is no template, or it cannot take a prompt.
        RefusedMessages: the template refuses a prompt.
    """
    return [_in_chat(case, chat) for case in cases] if ask == "chat" else list(cases)


def _in_chat(case: Case, chat: ChatTemplate | None) -> Case:
    found = as_asked_in_chat(case, chat)
    assert chat is not None

    def prompts(given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(asked(prompt, chat) for prompt in given)

    def answers(given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(answer.lstrip() for answer in given)

    def questions(given: tuple[Question, ...]) -> tuple[Question, ...]:
        return tuple(
            replace(
                one,
                prompt=asked(one.prompt, chat),
                answer=one.answer.lstrip(),
                aliases=answers(one.aliases),
            )
            for one in given
        )

    return replace(
        found,
        paraphrase_prompts=prompts(case.paraphrase_prompts),
        neighborhood_prompts=prompts(case.neighborhood_prompts),
        generation_prompts=prompts(case.generation_prompts),
        unrelated=questions(case.unrelated),
        portability=questions(case.portability),
        target_aliases=answers(case.target_aliases),
        true_aliases=answers(case.true_aliases),
    )
