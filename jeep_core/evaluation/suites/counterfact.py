"""CounterFact and Multi-CounterFact: ``counterfact.json``, ``multi_counterfact.json``."""

from __future__ import annotations

from collections import Counter

from jeep_core.evaluation.suites.cases import Case, Style
from jeep_core.evaluation.suites.fields import (
    Malformed,
    Record,
    Unusable,
    case_id,
    part,
    text,
    texts,
)
from jeep_core.facts import SLOT

NAME = "counterfact"
STYLE = Style.CONTRAST
REWRITE = "requested_rewrite"


def matches(record: Record) -> bool:
    """Whether a record looks like one of this format."""
    return REWRITE in record


def case(record: Record, number: int, left_out: Counter[str]) -> Case:
    """One record.

    Raises:
        Malformed, Unusable
    """
    rewrite, where = part(record, REWRITE), f"{REWRITE}/"
    prompt, subject = text(rewrite, "prompt", where), text(rewrite, "subject", where)
    slots = prompt.count(SLOT)
    if slots != 1:
        message = f"the template has {slots} '{{}}', it needs exactly one"
        raise Malformed(f"{where}prompt", "slots", message)
    if SLOT in subject:
        raise Malformed(f"{where}subject", "slots", "the subject must not contain '{}'")
    new = text(part(rewrite, "target_new", where), "str", f"{where}target_new/")
    true = text(part(rewrite, "target_true", where), "str", f"{where}target_true/")
    if new == true:
        raise Unusable(f"{where}target_new", "same_target", f"new and true answer are {new!r}")
    return Case(
        subject,
        prompt,
        new,
        true,
        texts(record, "paraphrase_prompts"),
        texts(record, "neighborhood_prompts"),
        id=case_id(record, number),
        generation_prompts=texts(record, "generation_prompts"),
    )
