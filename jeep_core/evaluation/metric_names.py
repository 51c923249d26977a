"""Names of an evaluation's metrics in words, for the terminal and the console."""

from __future__ import annotations

FREE = {
    f"{rule}{ending}": (kind, shown)
    for kind, ending in (
        ("edit prompt", ""),
        ("rephrasing", "_generalization"),
        ("what follows", "_portability"),
    )
    for rule, shown in (
        ("free_exact", "exact match"),
        ("free_f1", "F1"),
        ("free_contains", "contains"),
        ("judge", "judge"),
    )
} | {
    "free_kept": ("neighbor", "as base"),
    "free_f1_locality": ("neighbor", "F1"),
    "judge_locality": ("neighbor", "judge"),
}
"""Metrics of free answers: the prompts, and the rule they are judged by."""
FOLLOWS = "what follows"


def of_group(name: str) -> tuple[str, str] | None:
    """The group of questions about what follows, and the rule; None for other metrics.

    ``portability/2 hops`` are the tokens of ``2 hops``; tasks of lm-eval have a / in their names,
    too.
    """
    metric, _, group = name.partition("/")
    if not group:
        return None
    if metric == "portability":
        return group, "tokens"
    kind, rule = FREE.get(metric, ("", ""))
    return (group, rule) if kind == FOLLOWS else None


def in_words(name: str) -> str:
    """A metric's name for people: prompts and rule of free answers and of groups of questions.

    Those of tasks of lm-eval, ``task/metric``, stay as they are.
    """
    if (found := of_group(name)) is not None:
        return f"{FOLLOWS}, {', '.join(found)}"
    if name in FREE:
        return ", ".join(FREE[name])
    return name if "/" in name else name.replace("_", " ")
