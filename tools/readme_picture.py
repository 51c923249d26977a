"""The picture in README.md: one edit of a bundled model over HTTP, before, after, rolled back.

``python -m tools.readme_picture`` starts a service, asks, edits, asks, rolls back and asks again.
It writes what it saw to ``docs/figures/edit.json`` and draws that as ``docs/figures/edit.svg``;
``--draw`` only draws.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from rich.console import Console

from service.client import Client
from service.contracts.jobs import JobStatus
from service.demo.bundled import running_service

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
MODEL = "atlas-gptj"
FACT = {
    "subject": "Lyon",
    "relation": "city_country",
    "object": "Japan",
    "target_true": "France",
}
ANSWERS = (FACT["target_true"], FACT["object"])
PROMPTS = (
    ("the fact", "Lyon is a city in the country of"),
    ("in other words", "The city of Lyon lies in"),
    ("in other words", "In which country does Lyon lie?"),
    ("other cities", "Marseille is a city in the country of"),
    ("other cities", "The city of Paris lies in"),
)

WIDTH, LEFT, COLUMN, TOP, ROW = 1000, 310, 220, 128, 56
BEFORE, AFTER = "#0072B2", "#D55E00"
"""Colours that the colour-blind can tell, of the true answer and of the new one."""
INK, SOFT, LINE = "#1f2328", "#59636e", "#d1d9e0"


def measured() -> dict[str, Any]:
    """Run the edit; what was asked and answered, version by version.

    Raises:
        RuntimeError: the edit failed.
    """
    with running_service(MODEL, Console(stderr=True)) as url, Client(url) as client:
        client.wait_ready()
        before = _asked(client, "base")
        job = client.wait(client.edit([FACT]).id)
        if job.status is not JobStatus.SUCCEEDED or job.result is None:
            raise RuntimeError(f"the edit {job.status}: {job.error}")
        after = _asked(client, "head")
        client.rollback("base", why="picture")
        restored = _asked(client, "head")
    titles = ("before", "after", "rolled back")
    calls = ("version base", "POST /edits", "POST /rollback/base")
    states = [
        {"title": title, "call": call, **state}
        for title, call, state in zip(titles, calls, (before, after, restored), strict=True)
    ]
    return {"model": MODEL, "fact": FACT, "states": states}


def _asked(client: Client, version: str) -> dict[str, Any]:
    """All prompts answered by a version, with the probabilities of both answers."""
    prompts = [prompt for _, prompt in PROMPTS]
    found = client.generate(
        prompts, version, max_new_tokens=8, stop=["."], candidates=list(ANSWERS)
    )
    rows = [
        {
            "prompt": one.prompt,
            "answer": one.text.strip(),
            "probabilities": [round(math.exp(c.log_probability), 4) for c in one.candidates],
        }
        for one in found.results
    ]
    return {"weights_sha256": client.snapshot(version).weights_sha256, "rows": rows}


def drawn(seen: dict[str, Any]) -> str:
    """The picture, as SVG: a row for each prompt, a column for each state."""
    height = TOP + len(PROMPTS) * ROW + 62
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-size="15" '
        'font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        f"<title>{escape(_title(seen))}</title>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10" fill="#ffffff" '
        f'stroke="{LINE}"/>',
        _text(24, 38, _title(seen), weight=600, size=18),
        *_legend(),
    ]
    for i, state in enumerate(seen["states"]):
        x = LEFT + i * COLUMN
        if state["title"] == "after":
            box = f'x="{x - 12}" y="62" width="{COLUMN - 12}" height="{height - 74}" rx="8"'
            parts.append(f'<rect {box} fill="#fff4ec"/>')
        parts += _state(x, state, TOP)
    last = None
    for i, (kind, prompt) in enumerate(PROMPTS):
        y = TOP + i * ROW
        if kind != last:
            parts.append(f'<path d="M24 {y - 6}H{WIDTH - 24}" stroke="{LINE}"/>')
        parts.append(_text(24, y + 14, kind if kind != last else "", color=SOFT, size=12))
        parts.append(_text(24, y + 34, prompt, size=14))
        last = kind
    y = TOP + len(PROMPTS) * ROW
    parts.append(f'<path d="M24 {y}H{WIDTH - 24}" stroke="{LINE}"/>')
    parts.append(_text(24, y + 30, "hash of all weights", color=SOFT, size=13))
    return "\n".join([*parts, "</svg>", ""])


def _title(seen: dict[str, Any]) -> str:
    fact = seen["fact"]
    return f"One edit: {fact['subject']} moves from {fact['target_true']} to {fact['object']}"


def _legend() -> list[str]:
    """The legend of the bars, at the top right."""
    parts = [_text(WIDTH - 330, 38, "probability of", color=SOFT, size=13)]
    for x, color, name in ((WIDTH - 232, BEFORE, ANSWERS[0]), (WIDTH - 130, AFTER, ANSWERS[1])):
        parts.append(f'<rect x="{x}" y="28" width="12" height="12" rx="2" fill="{color}"/>')
        parts.append(_text(x + 18, 38, name, size=13))
    return parts


def _state(x: int, state: dict[str, Any], top: int) -> list[str]:
    """The column of one state: its title, answers with bars, and the hash of its weights."""
    parts = [
        _text(x, 84, state["title"], weight=600),
        _text(x, 104, state["call"], color=SOFT, size=12, mono=True),
    ]
    for i, row in enumerate(state["rows"]):
        y = top + i * ROW
        true, new = row["probabilities"]
        color = AFTER if new > true else BEFORE
        parts.append(_text(x, y + 14, row["answer"], color=color, weight=600))
        for place, (share, color) in enumerate(((true, BEFORE), (new, AFTER))):
            parts += _bar(x, y + 21 + 11 * place, share, color)
    y = top + len(state["rows"]) * ROW
    parts.append(_text(x, y + 30, f"{state['weights_sha256'][:12]}…", size=13, mono=True))
    return parts


def _bar(x: int, y: int, share: float, color: str, full: int = 140) -> list[str]:
    """A probability as a bar on a light ground, with its number in per cent."""
    return [
        f'<rect x="{x}" y="{y}" width="{full}" height="7" rx="2" fill="#eaeef2"/>',
        f'<rect x="{x}" y="{y}" width="{max(share * full, 0):.1f}" height="7" rx="2" '
        f'fill="{color}"/>',
        _text(x + full + 8, y + 7, f"{share:.0%}", color=SOFT, size=10),
    ]


def _text(
    x: int, y: int, text: str, color: str = INK, size: int = 15, weight: int = 400,
    mono: bool = False,
) -> str:  # fmt: skip
    family = ' font-family="ui-monospace, Menlo, Consolas, monospace"' if mono else ""
    return (
        f'<text x="{x}" y="{y}" fill="{color}" font-size="{size}" font-weight="{weight}"{family}>'
        f"{escape(text)}</text>"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tools.readme_picture", description=__doc__)
    parser.add_argument("--draw", action="store_true", help="draw what is in edit.json")
    parser.add_argument("--out", type=Path, default=FIGURES)
    given = parser.parse_args(arguments)
    record = given.out / "edit.json"
    if not given.draw:
        record.write_text(json.dumps(measured(), indent=1) + "\n", encoding="utf-8")
    picture = drawn(json.loads(record.read_text(encoding="utf-8")))
    (given.out / "edit.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
