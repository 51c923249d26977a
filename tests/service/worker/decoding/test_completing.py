"""Completions in the decoding thread: samples, scores of prompts, streams, refusals."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from support.service.answers import Answers

from jeep_core.models.views import ModelView
from service.contracts.jobs import new_id
from service.contracts.schemas import GenerateRequest, WorkerRequest
from service.contracts.schemas.completion import CompletionAsk
from service.worker.decoding.completing import LOWEST, Completing, _scored
from service.worker.decoding.generating import Generating

PROMPT = "The city of Lyon lies in"


def ids_of(view: ModelView, text: str = PROMPT) -> list[int]:
    return list(view.base.tokenizer.encode(text).ids)


def asked(view: ModelView, *prompts: list[int], **body: Any) -> Completing:
    """A prepared request, answered by ``view`` as v0."""
    deadline = time.time() + 60
    request = WorkerRequest(id=new_id("ask"), kind="complete", deadline=deadline, versions=["v0"])
    given = list(prompts) or [ids_of(view)]
    made = Completing(request, CompletionAsk(prompts=given, **body))
    made.prepare([view])
    return made


def answered(*some: Completing) -> list[list[dict[str, Any]]]:
    answers = Answers(*some)
    answers.run(*some)
    found = []
    for one in some:
        last = answers.of(one.request.id)[-1]
        assert last.event == "result", last
        found.append(list(last.data["answers"]))
    return found


def tokens(answer: dict[str, Any]) -> list[int]:
    return [token["id"] for token in answer["tokens"]]


def test_samples_of_a_prompt_stay_together_and_differ(view: ModelView) -> None:
    other = ids_of(view, "Osaka is a city")
    hot = {"temperature": 5.0, "seed": 7, "max_new_tokens": 8}
    three, again, one = answered(
        asked(view, ids_of(view), other, samples=3, **hot),
        asked(view, ids_of(view), other, samples=3, **hot),
        asked(view, other, **hot),
    )[:3]
    assert [answer["index"] for answer in three] == list(range(6))
    assert len({tuple(tokens(answer)) for answer in three[:3]}) == 3
    assert [tokens(answer) for answer in three] == [tokens(answer) for answer in again]
    assert tokens(three[3]) == tokens(one[0]), "the first sample is that of the seed itself"


def test_prompts_are_scored_beside_requests_of_the_other_kind(view: ModelView) -> None:
    deadline = time.time() + 60
    request = WorkerRequest(id=new_id("ask"), kind="generate", deadline=deadline, versions=["v0"])
    plain = Generating(request, GenerateRequest(prompt=PROMPT, max_new_tokens=4))
    plain.prepare([view])
    scored = asked(view, samples=2, max_new_tokens=2, top=1, prompt_top=1)
    answers = Answers(plain, scored)
    answers.run(plain, scored)
    first, second = answers.of(scored.request.id)[-1].data["answers"]
    ids = ids_of(view)
    with torch.no_grad():
        logits = view.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    assert [one["id"] for one in first["prompt"]] == ids[1:]
    for i, one in enumerate(first["prompt"]):
        assert one["log_probability"] == pytest.approx(float(logits[i, ids[i + 1]]), abs=1e-4)
        assert one["top"][0][0] == int(logits[i].argmax())
    assert second["prompt"] is None, "once for all samples"
    assert first["tokens"][0]["top"][0] == [
        first["tokens"][0]["id"],
        first["tokens"][0]["log_probability"],
    ]
    generated = answers.of(plain.request.id)[-1].data["results"][0]
    assert [t["id"] for t in generated["tokens"]][:2] == tokens(first)


def test_without_new_tokens_the_prompt_alone_is_read(view: ModelView) -> None:
    [[only], [bare]] = answered(
        asked(view, max_new_tokens=0, prompt_top=0), asked(view, max_new_tokens=0)
    )
    assert (only["tokens"], only["text"], only["finish_reason"]) == ([], "", "length")
    assert len(only["prompt"]) == len(ids_of(view)) - 1
    assert (bare["prompt"], bare["finish_reason"]) == (None, "length")


def test_a_stream_sends_scores_then_tokens(view: ModelView) -> None:
    one = asked(view, samples=2, max_new_tokens=3, prompt_top=0, stream=True)
    answers = Answers(one)
    answers.run(one)
    *events, last = answers.of(one.request.id)
    for index in (0, 1):
        mine = [e.data for e in events if e.data["index"] == index]
        assert [e["prompt"] is not None for e in mine] == [True, False, False, False]
        answer = last.data["answers"][index]
        assert [e["token"]["id"] for e in mine[1:]] == tokens(answer)
        assert answer["text"].startswith("".join(e["delta"] for e in mine))


def test_an_answer_is_cut_to_the_room_that_the_model_has(view: ModelView) -> None:
    long = ids_of(view, "Lyon " * 400)[: view.base.max_positions - 2]
    [[answer]] = answered(asked(view, long, max_new_tokens=500, temperature=5.0, seed=1))
    assert len(answer["tokens"]) <= 2


@pytest.mark.parametrize(
    ("prompt", "code"), [([], "empty"), ([5] * 256, "too_long"), ([5, 10**6], "invalid_request")]
)
def test_a_request_with_a_prompt_that_cannot_be_answered_fails_whole(
    view: ModelView, prompt: list[int], code: str
) -> None:
    one = asked(view, ids_of(view), prompt, max_new_tokens=2)
    answers = Answers(one)
    answers.run(one)
    [last] = answers.of(one.request.id)
    assert (last.event, last.data["code"]) == ("error", code)


def test_what_a_model_rules_out_is_a_number_in_json() -> None:
    one = _scored(3, float("-inf"), [(4, -1.0), (3, float("-inf"))])
    assert one.log_probability == LOWEST
    assert one.top == [(4, -1.0), (3, LOWEST)]
