"""Guards of an edit that cannot be measured, found before the edit is queued."""

from __future__ import annotations

from collections.abc import Sequence

from jeep_core.errors import FieldProblem
from jeep_core.spec.facts import Fact
from jeep_core.text.encoding import encode
from jeep_core.text.joining import joined
from service.api.model import PublishedModel
from service.contracts.schemas import Guards


def guard_problems(
    guards: Guards, facts: Sequence[tuple[int, Fact]], model: PublishedModel
) -> list[FieldProblem]:
    """Return what the guards lack for valid facts, given with their index in the request."""
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
    """Return code and message for a prompt that cannot be used, else None."""
    tokenizer, limit = model.tokenizer, model.info.max_positions
    alone = encode(tokenizer, prompt).ids
    if not alone:
        return "empty", "the prompt has no tokens"
    if fact.target_true is None:
        longest = len(alone)
    else:
        answers = [joined(prompt, a, fact.join) for a in (fact.target_new, fact.target_true)]
        wholes = [encode(tokenizer, text).ids for text in answers]
        longest = max(map(len, wholes))
        if any(whole[: len(alone)] != alone for whole in wholes):
            return "merges_with_prompt", (
                "an answer's first token merges with the end of the prompt; "
                "leave out white space at the prompt's end, or give another `join`"
            )
    if longest > limit:
        return "too_long", f"{longest} tokens with the answer, the model has {limit} positions"
    return None
