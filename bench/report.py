"""The rows that all speed benchmarks report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """One comparison; ``low`` and ``high`` are the ratio's least and greatest over repeats.

    ``better``: where more is, the ratio of times is yardstick / ours and that of rates, such as
    tokens a second, ours / yardstick; where less is, ours / yardstick; near one, ours, which is
    measured, / the yardstick, which is counted.
    """

    what: str
    ours: float
    yardstick: float
    unit: str
    ratio: float
    low: float
    high: float
    note: str = ""
    better: Literal["more", "less", "near one"] = "more"


def table(rows: Sequence[Row]) -> str:
    """Markdown; ↓ marks ratios of which less is better."""
    lines = [
        "| what | ours | yardstick | unit | ratio | over repeats | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        arrow = " ↓" if row.better == "less" else ""
        lines.append(
            f"| {row.what} | {row.ours:.4g} | {row.yardstick:.4g} | {row.unit} "
            f"| {row.ratio:.2f}{arrow} | {row.low:.2f}–{row.high:.2f} | {row.note} |"
        )
    return "\n".join(lines)
