"""Write the data of the bundled tasks for lm-eval.

    python -m tools.harness_tasks

From the facts of general knowledge and from ``prose.txt``; the same files again for the same
sources.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jeep_core.evaluation.harness.catalogue import BUNDLED
from jeep_core.probe.defaults.general import KNOWLEDGE

SEED = 0
WRONG = 3
EXAMPLES = ("country_capital", "company_country", "work_author", "element_symbol")
"""Relations whose first fact is an example of the tasks of one answer."""

Row = dict[str, Any]


def main() -> None:
    """Write the files."""
    for name, rows in files().items():
        write(BUNDLED / name, rows)


def files() -> dict[str, list[Row]]:
    """The rows of every file, by its name."""
    relations = json.loads(KNOWLEDGE.read_text(encoding="utf-8"))["relations"]
    asked: list[Row] = []
    examples: list[Row] = []
    for relation in relations:
        for i, (subject, answer) in enumerate(relation["facts"]):
            fact = {"question": relation["prompt"].format(subject), "answer": answer}
            chosen = i == 0 and relation["name"] in EXAMPLES
            (examples if chosen else asked).append(fact)
    order = random.Random(SEED)
    order.shuffle(asked)
    return {
        "choice.jsonl": list(choices(relations)),
        "answer.jsonl": asked,
        "examples.jsonl": examples,
        "text.jsonl": [{"text": line} for line in prose()],
    }


def choices(relations: Iterable[Row]) -> Iterator[Row]:
    """Each fact with wrong answers of its relation; a wrong one is right of no fact alike."""
    draw = random.Random(SEED)
    rows = []
    for relation in relations:
        right: dict[str, set[str]] = {}
        for subject, answer in relation["facts"]:
            right.setdefault(subject, set()).add(answer)
        answers = sorted({answer for _, answer in relation["facts"]})
        for subject, answer in relation["facts"]:
            others = [one for one in answers if one not in right[subject]]
            if len(others) < WRONG:
                continue
            options = [answer, *draw.sample(others, WRONG)]
            draw.shuffle(options)
            question = relation["prompt"].format(subject)
            rows.append({"question": question, "choices": options, "answer": options.index(answer)})
    draw.shuffle(rows)
    yield from rows


def prose() -> list[str]:
    """The paragraphs."""
    return (BUNDLED / "prose.txt").read_text(encoding="utf-8").splitlines()


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON lines."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
