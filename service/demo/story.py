"""The story of ``jeep demo-real``: forms in which is asked, answers, and how they are counted."""

from __future__ import annotations

from dataclasses import dataclass

from service.contracts.schemas import EditResult
from service.demo.claims import CHAT_ONLY, CLAIMS, Question

ENOUGH = 0.8
"""Share of the edited prompts that must have the new answer, in every form."""


@dataclass(frozen=True)
class Said:
    """The answer of a version: its greedy text, and the probability of both answers."""

    text: str
    p_true: float
    p_new: float


@dataclass(frozen=True)
class Form:
    """A way to ask, with tables of its own.

    ``tokens``: of the free answer; a chat model likes to say the statement again before it ends
    it.  ``by_text``: whether an edit is judged by the answer that the text names first, else by
    which of the two is more probable at the prompt's end.
    """

    name: str
    title: str
    chat: bool
    tokens: int
    stop: tuple[str, ...]
    by_text: bool

    @property
    def questions(self) -> list[Question]:
        """The questions of this form."""
        asked = [one for claim in CLAIMS for one in claim.questions]
        return [one for one in asked if self.chat or one.kind != CHAT_ONLY]

    def took(self, one: Question, said: Said) -> bool:
        """Whether a version gives the new answer."""
        return writes_new(one, said) if self.by_text else prefers_new(one, said)


def prefers_new(_: Question, said: Said) -> bool:
    """Whether the new answer is more probable than the true one."""
    return said.p_new > said.p_true


def writes_new(one: Question, said: Said) -> bool:
    """Whether the text names the new answer, and not the true one before it."""
    return one.named_first(said.text) == "new"


PLAIN = Form("plain", "Asked plainly", chat=False, tokens=6, stop=("\n",), by_text=False)
CHAT = Form("chat", "Asked in a chat", chat=True, tokens=24, stop=(), by_text=True)
MEASURES = {"more probable": prefers_new, "written first": writes_new}
"""Ways to count the new answers of a version."""
Answers = dict[str, Said]


@dataclass(frozen=True)
class Count:
    """In how many of ``of`` prompts the new answer is ahead, before and after."""

    before: int
    after: int
    of: int


@dataclass(frozen=True)
class Story:
    """The whole run: by form the answers before and after, the edit, and the rollback."""

    model: str
    before: dict[Form, Answers]
    after: dict[Form, Answers]
    edit: EditResult
    seconds: float
    rolled_back: bool

    def counts(self, form: Form, measure: str) -> dict[str, Count]:
        """By kind of question, how often the new answer is ahead."""
        new, found = MEASURES[measure], dict[str, Count]()
        for one in form.questions:
            so_far = found.get(one.kind, Count(0, 0, 0))
            found[one.kind] = Count(
                so_far.before + new(one, self.before[form][one.prompt]),
                so_far.after + new(one, self.after[form][one.prompt]),
                so_far.of + 1,
            )
        return found

    @property
    def ok(self) -> bool:
        """Whether most edits took in every form, and all was undone."""
        return self.rolled_back and all(
            sum(form.took(one, said[one.prompt]) for one in form.questions if one.kind == "edit")
            >= ENOUGH * len(CLAIMS)
            for form, said in self.after.items()
        )
