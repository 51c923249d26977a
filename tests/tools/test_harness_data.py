"""The data of the bundled tasks for lm-eval are those that their program writes."""

from __future__ import annotations

import json
from collections import Counter

from jeep_core.evaluation.harness.catalogue import BUNDLED
from jeep_core.moments.source import DEFAULT_CORPUS
from jeep_core.probe.defaults.general import KNOWLEDGE
from tools.harness_tasks import WRONG, files


def test_the_files_are_as_they_are_made() -> None:
    for name, rows in files().items():
        written = (BUNDLED / name).read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in written] == rows, (
            f"{name}: python -m tools.harness_tasks"
        )


def test_a_wrong_answer_is_right_of_no_fact_with_that_question() -> None:
    right: dict[str, set[str]] = {}
    for relation in json.loads(KNOWLEDGE.read_text(encoding="utf-8"))["relations"]:
        for subject, answer in relation["facts"]:
            right.setdefault(relation["prompt"].format(subject), set()).add(answer)
    places: Counter[int] = Counter()
    for row in files()["choice.jsonl"]:
        options = set(row["choices"])
        assert len(options) == WRONG + 1
        assert options & right[row["question"]] == {row["choices"][row["answer"]]}
        places[row["answer"]] += 1
    # a model that always takes one place is right of about a quarter
    assert max(places.values()) < 0.3 * places.total()


def test_examples_are_not_asked() -> None:
    made = files()
    asked = {row["question"] for row in made["answer.jsonl"]}
    assert not asked & {row["question"] for row in made["examples.jsonl"]}


def test_second_moments_are_not_taken_over_the_prose() -> None:
    corpus = DEFAULT_CORPUS.read_text(encoding="utf-8")
    for row in files()["text.jsonl"]:
        assert row["text"][:60] not in corpus
