"""Losses in reading a file of records, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.text import Text

from jeep_core.suites.cases import of_field

if TYPE_CHECKING:
    from service.contracts.schemas.reading import Losses, SuiteProblem


def loss_lines(losses: Losses) -> list[Text]:
    """Return one line for each loss or change in reading a file."""
    named = {
        "dropped": losses.dropped,
        "left out": losses.left_out,
        "read otherwise than written": losses.adapted,
    }
    counted = [Text(f"{name}: {counts(found)}") for name, found in named.items() if found]
    return [*counted, *_unread(losses.unread), *map(_problem, losses.problems)]


def _unread(found: Mapping[str, int]) -> list[Text]:
    """A warning with the fields that nobody has read, and what misspelt ones may have meant."""
    if not found:
        return []
    from jeep_core.suites.loading import misspelt

    said = f"warning: fields without a meaning here: {counts(found)}{misspelt(found)}"
    return [Text(said, style="yellow")]


def _problem(one: SuiteProblem) -> Text:
    where = "" if one.record is None else f", record {one.record}"
    field = of_field(one.field or "", one.message)
    return Text(f"  line {one.line}{where}{field}: {one.message}", style="yellow")


def counts(found: Mapping[str, int]) -> str:
    """Figures with their names, without those that are 0."""
    return ", ".join(f"{count} {reason}" for reason, count in found.items() if count)
