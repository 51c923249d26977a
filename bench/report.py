"""What all speed benchmarks report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One comparison; ``low`` and ``high`` are the ratio's least and greatest over repeats."""

    what: str
    ours: float
    yardstick: float
    unit: str
    ratio: float
    low: float
    high: float
    note: str = ""


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| what | ours | yardstick | unit | ratio | over repeats | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.what} | {row.ours:.4g} | {row.yardstick:.4g} | {row.unit} "
            f"| {row.ratio:.2f} | {row.low:.2f}–{row.high:.2f} | {row.note} |"
        )
    return "\n".join(lines)
