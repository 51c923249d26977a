"""Figures in lines: those of an edit, and how figures came about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from service.contracts.schemas import EditResult
    from service.contracts.schemas.base import MetricProtocol
    from service.contracts.schemas.jobs import JobOut


def of_edit(result: EditResult) -> Text:
    """The versions, and the shares of the facts that took, in a line."""
    chat = result.chat_efficacy
    in_chat = "" if chat is None else f" (in a chat {chat:.1%})"
    share = f"efficacy {result.efficacy:.1%}{in_chat}, greedy success {result.greedy_success:.1%}"
    seconds = sum(result.seconds.values())
    staged = "" if result.activated else " (staged)"
    head = f"{result.parent} → {result.version}{staged}: {share}, {seconds:.1f} s"
    return Text(head, style="bold")


def of_job(answer: JobOut) -> list[Text]:
    """The figures of an edit that has succeeded, and how they came about; else nothing."""
    from service.contracts.jobs import JobKind, JobStatus
    from service.contracts.schemas import EditResult

    if answer.kind is not JobKind.EDIT or answer.status is not JobStatus.SUCCEEDED:
        return []
    if answer.result is None:
        return []
    result = EditResult.model_validate(answer.result)
    return [of_edit(result), *how(result.protocols)]


def how(protocols: Mapping[str, MetricProtocol], names: Mapping[str, str] = {}) -> list[Text]:
    """Under figures: what was asked, how it was judged, what it can be compared with.

    ``names``: of figures that are called otherwise above.
    """
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name, one in protocols.items():
        rules = groups.setdefault((one.how, one.comparable), {})
        rules.setdefault(one.judged, []).append(names.get(name, name))
    lines = []
    for (asked, comparable), rules in groups.items():
        lines.append(f"Asked: {asked}. Compare with: {comparable}.")
        lines += [f"  {', '.join(some)}: {judged}" for judged, some in rules.items()]
    return [Text(line, style="dim") for line in lines]
