"""``bench.editors.real``: rows with and without free answers."""

from __future__ import annotations

from support.library import tiny

from bench.editors import real
from jeep_core.evaluation.free_answers import neighbors_of, write_freely
from jeep_core.models.views import ModelView
from jeep_core.suites import Case

CASES = [
    Case(
        f"Lyon {i}", "The river of {} is the", "Rhine", "Seine",
        paraphrase_prompts=(f"Through Lyon {i} flows the",),
        neighborhood_prompts=(f"Paris {i} is on the",),
    )
    for i in range(3)
]  # fmt: skip


def test_nothing_is_asked_freely_without_the_free_answers_of_before() -> None:
    view = ModelView(tiny.random_model("llama"))
    rows = real.rows_of(view, CASES, None, start=4)
    assert [row["id"] for row in rows] == ["4", "5", "6"]
    assert not [name for row in rows for name in row if name.startswith("free_")]
    asked = real.rows_of(view, CASES, write_freely(view, neighbors_of(CASES)), start=4)
    assert {"free_exact", "free_contains"} <= set(asked[0])
    assert [{k: v for k, v in row.items() if k in rows[0]} for row in asked] == rows
