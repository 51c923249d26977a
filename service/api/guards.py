"""Guards of an edit that there is nothing to measure with, found before it is queued."""

from __future__ import annotations

from collections.abc import Sequence

from jeep_core.errors import FieldProblem
from jeep_core.facts import Fact
from jeep_core.positions import spaced
from service.api.model import PublishedModel
from service.schemas import Guards


def guard_problems(
    guards: Guards, facts: Sequence[tuple[int, Fact]], model: PublishedModel
) -> list[FieldProblem]:
    """What is missing for a batch of valid facts, which come with their index in the request."""
    problems: list[FieldProblem] = []
    if guards.min_locality is not None:
        problems += _locality_problems(facts, model)
    if guards.max_perplexity_ratio is not None and not model.info.perplexity_text:
        message = (
            "there is no text for perplexity: "
            "start the worker with --perplexity-text (JEEP_PERPLEXITY_TEXT)"
        )
        pointer = "/guards/max_perplexity_ratio"
        problems.append(FieldProblem(pointer, "no_perplexity_text", message))
    return problems


def _locality_problems(
    facts: Sequence[tuple[int, Fact]], model: PublishedModel
) -> list[FieldProblem]:
    if not any(fact.neighborhood_prompts for _, fact in facts):
        message = (
            "no fact of the batch has neighborhood_prompts, so locality cannot be measured: give "
            "some, or leave min_locality out"
        )
        return [FieldProblem("/guards/min_locality", "no_neighborhood_prompts", message)]
    problems = []
    for i, fact in facts:
        for j, prompt in enumerate(fact.neighborhood_prompts):
            wrong = _wrong_prompt(prompt, fact, model)
            if wrong is not None:
                problems.append(FieldProblem(f"/facts/{i}/neighborhood_prompts/{j}", *wrong))
    return problems


def _wrong_prompt(prompt: str, fact: Fact, model: PublishedModel) -> tuple[str, str] | None:
    """Code and message for a prompt that cannot be asked."""
    encode, limit = model.tokenizer.encode, model.info.max_positions
    if not encode(prompt).ids:
        return "empty", "the prompt has no tokens"
    answers = [fact.target_new, *([fact.target_true] if fact.target_true else [])]
    longest = max(len(encode(prompt + spaced(answer)).ids) for answer in answers)
    if longest > limit:
        return "too_long", f"{longest} tokens with the answer, the model has {limit} positions"
    return None
