"""Jobs that go on with rows of another layout, such as those from before questions had groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.library import tiny
from support.service.evaluation_bench import CITIES, Bench

from jeep_core.evaluation import free_answers, units
from service.contracts.schemas.evaluation import FreeOptions
from service.worker.partial_results import Records

FACTS = [
    {
        "prompt": f"{city} is a city in the country of",
        "subject": city,
        "target_new": "Peru",
        "ground_truth": "Norway",
        "portability": {
            "Reasoning": [{"prompt": f"People in {city} speak", "ground_truth": "Spanish"}],
            "Subject_Aliasing": [{"prompt": f"Old {city} lies in", "ground_truth": "Peru"}],
        },
        "locality": {"Other": [{"prompt": f"{city} lies on", "ground_truth": "rivers"}]},
    }
    for city in CITIES
]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(units, "CASES_TOGETHER", 2)
    monkeypatch.setattr(free_answers, "CASES_TOGETHER", 2)
    made = Bench(tmp_path / "store", tiny.random_model("gptj"), [])
    made.add("implied", FACTS, "knowedit", "accuracy")
    return made


def as_before(path: Path, count: int) -> None:
    """Leave the first ``count`` rows of a file, as a release without groups wrote them."""
    rows: list[dict[str, Any]] = list(Records(path).read())[:count]
    path.unlink()
    for row in rows:
        for one in row.get("free", row.get("prompts", [])):
            del one["group"]
    Records(path).append({k: v for k, v in row.items() if "/" not in k} for row in rows)


@pytest.mark.parametrize("ended", [True, False], ids=["a target was done", "within a target"])
def test_figures_by_group_are_of_all_cases(bench: Bench, ended: bool) -> None:
    given = {
        "suite": "implied",
        "suite_sha256": bench.store.suites.get("implied").sha256,
        "fluency_texts": 0,
        "free": FreeOptions(max_new_tokens=3),
    }
    whole, job = bench.job(**given), bench.job(**given)
    [expected] = bench.run(whole).points
    groups = {name for name in expected.metrics if name.startswith("portability/")}
    assert groups == {"portability/Reasoning", "portability/Subject_Aliasing"}
    assert all(expected.metrics[name].cases == 6 for name in groups)
    bench.run(job)
    work = bench.store.drafts.work_folder(job.id)
    point = work / "point-0.json"
    if ended:
        old = json.loads(point.read_bytes())
        old["metrics"] = {k: v for k, v in old["metrics"].items() if "/" not in k}
        point.write_text(json.dumps(old))
    else:
        point.unlink()
    for name in ("cases-0.jsonl", "free-0.jsonl"):
        as_before(work / name, 6 if ended else 3)
    (work / "layout").unlink()
    [found] = bench.run(job).points
    assert found.metrics == expected.metrics
    assert bench.rows(job) == bench.rows(whole)
