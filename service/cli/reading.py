"""Losses in reading a file of records, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from service.contracts.schemas.reading import Losses, SuiteProblem


def loss_lines(losses: Losses) -> list[Text]:
    """Return one line for each loss or change in reading a file."""
    named = {
        "dropped": losses.dropped,
        "left out": losses.left_out,
        "read otherwise than written": losses.adapted,
        "fields without a meaning here": losses.unread,
    }
    counted = [Text(f"{name}: {counts(found)}") for name, found in named.items() if found]
    return [*counted, *map(_problem, losses.problems)]


def _problem(one: SuiteProblem) -> Text:
    where = "" if one.record is None else f", record {one.record}"
    field = f", {one.field}" if one.field else ""
    return Text(f"  line {one.line}{where}{field}: {one.message}", style="yellow")


def counts(found: Mapping[str, int]) -> str:
    """Figures with their names, without those that are 0."""
    return ", ".join(f"{count} {reason}" for reason, count in found.items() if count)
