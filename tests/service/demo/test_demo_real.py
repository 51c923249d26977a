"""The story of a real model, told of a service that is played: what is asked, counted and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from service.client import ApiError, Client
from service.contracts.jobs import JobStatus
from service.contracts.schemas import Problem
from service.demo import real
from service.demo.claims import CLAIMS, Question
from service.demo.story import CHAT, PLAIN, Story
from service.demo.telling import markdown, show

SPOILT = "The play Macbeth was written by"
"""The neighbour that follows its fact in the played model."""
IN_A_CHAT = "To climb Mount Fuji, you have to travel to"
"""What is still answered truly in a chat, and only there."""


@dataclass
class PlayedService:
    """A service whose version ``v1`` gives new answers, and whose base gives true ones."""

    chat: bool = True
    fails: bool = False
    comes_back: bool = True
    head: str = "v0"
    asked: list[dict[str, Any]] = field(default_factory=list)

    def snapshot(self, ref: str) -> Any:
        assert ref == "head"
        return SimpleNamespace(weights_sha256=f"hash of {self.head}")

    def generate(self, prompt: str | None, version: str, **options: Any) -> Any:
        assert version == "head"
        self.asked.append({"prompt": prompt, **options})
        if "messages" in options and not self.chat:
            raise ApiError(refusal("no_chat_template"))
        text = prompt or options["messages"][0]["content"]
        true, new = options["candidates"]
        took = self.head == "v1" and self._changes(text, chat=prompt is None)
        said = f"Well: {new}, not {true}" if took else f"{true}.\n"
        chances = (0.1, 0.8) if took else (0.7, 0.2)
        scores = [SimpleNamespace(probability=p) for p in chances]
        return SimpleNamespace(results=[SimpleNamespace(text=said, candidates=scores)])

    def _changes(self, text: str, chat: bool) -> bool:
        neighbours = {claim.neighbor for claim in CLAIMS} - {SPOILT}
        return text not in neighbours and not (chat and text == IN_A_CHAT)

    def edit(self, facts: Sequence[Any], guards: Any) -> Any:
        assert [fact["target_new"] for fact in facts] == [claim.new for claim in CLAIMS]
        assert guards["max_perplexity_ratio"] >= 100
        if not self.fails:
            self.head = "v1"
        return SimpleNamespace(id="job")

    def wait(self, job_id: str, *_: Any, **__: Any) -> Any:
        status = JobStatus.FAILED if self.fails else JobStatus.SUCCEEDED
        return SimpleNamespace(status=status, resource_id="edit")

    def edit_result(self, _: str) -> Any:
        figures = SimpleNamespace(perplexity_before=40.0, perplexity=40.25)
        result = SimpleNamespace(
            guards=figures, source="probe now", moments="default corpus", warnings=["a warning"]
        )
        error = "out of memory" if self.fails else None
        return SimpleNamespace(
            status=JobStatus.FAILED if self.fails else JobStatus.SUCCEEDED,
            result=None if self.fails else result,
            error=error,
        )

    def rollback(self, ref: str, why: str) -> Any:
        assert ref == "base"
        if self.comes_back:
            self.head = "v0"
        return SimpleNamespace(weights_sha256=f"hash of {self.head}")


def refusal(code: str) -> Problem:
    errors = [{"pointer": "/messages", "code": code, "message": "no"}]
    return Problem(
        title="t",
        status=422,
        detail="d",
        code="invalid_request",
        request_id="r",
        errors=errors,
    )


def told(service: PlayedService) -> Story | None:
    return real.edit_and_undo(cast(Client, service), "a model", Console(quiet=True))


def story_of(service: PlayedService) -> Story:
    found = told(service)
    assert found is not None
    return found


def counted(story: Story, measure: str) -> list[dict[str, tuple[int, int, int]]]:
    return [
        {kind: (n.before, n.after, n.of) for kind, n in story.counts(form, measure).items()}
        for form in (PLAIN, CHAT)
    ]


def test_every_question_is_asked_plainly_and_as_a_message_of_the_user() -> None:
    service = PlayedService()
    story_of(service)
    asked = service.asked[: len(service.asked) // 3]
    plain = [one["prompt"] for one in asked if one["prompt"] is not None]
    chats = [one["messages"] for one in asked if one["prompt"] is None]
    assert plain == [
        text
        for claim in CLAIMS
        for text in (claim.questions[0].prompt, claim.questions[1].prompt, claim.neighbor)
    ]
    assert chats == [
        [{"role": "user", "content": one.prompt}] for claim in CLAIMS for one in claim.questions
    ]
    assert {one["max_new_tokens"] for one in asked if one["prompt"] is None} == {24}
    # the rest are the same questions after the edit and after the rollback
    assert service.asked == asked * 3


def test_new_answers_are_counted_by_probability_and_by_what_is_written() -> None:
    story = story_of(PlayedService())
    plain = {"edit": (0, 6, 6), "rephrased": (0, 6, 6), "neighbour": (0, 1, 6)}
    in_chat = {**plain, "rephrased": (0, 5, 6), "question": (0, 6, 6)}
    assert counted(story, "more probable") == [plain, in_chat]
    assert counted(story, "written first") == [plain, in_chat]
    assert story.rolled_back
    assert story.ok


def test_a_story_fails_where_edits_do_not_hold_in_a_chat() -> None:
    deaf = PlayedService()
    deaf._changes = lambda text, chat: not chat  # type: ignore[method-assign]
    story = story_of(deaf)
    assert story.rolled_back
    assert counted(story, "written first")[0]["edit"] == (0, 6, 6)
    assert not story.ok


def test_a_rollback_that_leaves_something_is_said() -> None:
    story = story_of(PlayedService(comes_back=False))
    assert not story.ok
    assert "after the rollback something differs" in markdown(story)


def test_a_model_without_a_chat_template_is_asked_plainly_alone() -> None:
    story = story_of(PlayedService(chat=False))
    assert list(story.after) == [PLAIN]
    assert story.ok
    page = markdown(story)
    assert "| plain | more probable | 0 → 6 of 6 | 0 → 6 of 6 |  | 0 → 1 of 6 |" in page
    assert "Asked in a chat" not in page


def test_another_refusal_ends_the_story() -> None:
    service = PlayedService()

    def refuse(*_: Any, **__: Any) -> Any:
        raise ApiError(refusal("messages_refused"))

    service.generate = refuse  # type: ignore[method-assign]
    with pytest.raises(ApiError, match="invalid_request"):
        told(service)


def test_an_edit_that_failed_has_no_story() -> None:
    assert told(PlayedService(fails=True)) is None


def test_the_terminal_and_the_page_have_both_forms() -> None:
    story = story_of(PlayedService())
    console = Console(width=240, force_terminal=False, record=True, quiet=False)
    with console.capture() as shown:
        show(story, console)
    page = markdown(story)
    for text in (shown.get(), page):
        assert "Asked plainly" in text
        assert "Asked in a chat" in text
        assert "Who wrote the play Hamlet?" in text
        assert "perplexity 40.00 → 40.25" in text
        assert "all answers and the hash of all weights are as before" in text
        assert "a warning" in text
    assert "| chat | written first | 0 → 6 of 6 | 0 → 5 of 6 | 0 → 6 of 6 | 0 → 1 of 6 |" in page
    assert (
        "| question | Who wrote the play Hamlet? | William Shakespeare. | "
        "Well: Victor Hugo, not William Shakespeare | true → new | 0.700 → 0.100 | "
        "0.200 → 0.800 |"
    ) in page


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("It is in Rome, not in Paris.", "new"),
        ("The Eiffel Tower is in PARIS.", "true"),
        ("I cannot say.", "–"),
        ("", "–"),
    ],
)
def test_the_answer_that_is_named_first_counts(text: str, named: str) -> None:
    assert Question("edit", "", "Paris", "Rome").named_first(text) == named


def test_claims_can_be_told_apart() -> None:
    for claim in CLAIMS:
        assert claim.prompt.count("{}") == claim.paraphrase.count("{}") == 1
        assert claim.question.count("{}") == 1
        assert claim.new not in claim.true
        assert claim.true not in claim.new
        assert claim.subject not in claim.neighbor
    prompts = [one.prompt for claim in CLAIMS for one in claim.questions]
    assert len(set(prompts)) == len(prompts)
