"""``suite: lm-eval:…`` against lm-eval's own ``hf`` backend on the folder of each version.

The folder of the edited version is a whole checkpoint as ``jeep export --format merged`` writes it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.interop.lm_eval_command import Run, alike, far, lm_eval
from support.interop.served import serving

from jeep_core.evaluation.harness.catalogue import BUNDLED, find
from service.client import Client

DOCUMENTS = 40
TASKS = [task.name for task in find("lm-eval:general", None).tasks]
FACTS = [
    {"subject": "Lyon", "prompt": "{} is a city in", "target_new": "Japan"},
    {"subject": "Toyota", "prompt": "{} is a company based in", "target_new": "Peru"},
]


def cases(client: Client, evaluation: str, file: Path, target: str) -> list[dict[str, Any]]:
    client.evaluation_cases(evaluation, file, target)
    return [json.loads(line) for line in file.read_text().splitlines()]


def chosen(rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    """The documents that were asked, by task."""
    found: dict[str, list[int]] = {name: [] for name in TASKS}
    for row in rows:
        task, _, number = row["id"].partition("/")
        found[task].append(int(number))
    return found


def own(folder: Path, model: Path, samples: dict[str, list[int]]) -> Run:
    """lm-eval's own figures of a folder, for the same documents."""
    given = f"pretrained={model},dtype=float32"
    flags = ("--device", "cpu", "--samples", json.dumps(samples))
    return lm_eval(folder, "hf", given, *flags, tasks=",".join(TASKS), where=BUNDLED)


def test_figures_are_those_of_lm_eval_on_the_exported_folder(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path) as url, Client(url) as client:
        # any edit will do; this editor needs no second moments
        client.wait(client.edit(FACTS, editor="ft-wd", hparams={"layer": 5}).id)
        job = client.evaluate("lm-eval:general", limit=DOCUMENTS, seed=1)
        client.wait(job.id)
        found = client.evaluation(job.resource_id)
        assert found.result is not None
        assert found.result.lm_eval is not None
        rows = {
            label: cases(client, found.id, tmp_path / f"{label}.jsonl", label)
            for label in ("base", "head")
        }
        compared = client.compare(found.id, "base", "head")
        export = client.submit_export("head", format="merged")
        client.wait(export.id)
        merged = tmp_path / "merged"
        client.download_export(export.resource_id, merged)
    samples = chosen(rows["base"])
    assert chosen(rows["head"]) == samples
    assert [len(one) for one in samples.values()] == [40, 40, 40, 16]
    folders = {"base": model, "head": merged}
    expected = {
        label: own(tmp_path / f"own-{label}", one, samples) for label, one in folders.items()
    }
    for point in found.result.points:
        run = expected[point.label]
        for name, value in point.metrics.items():
            task, _, metric = name.partition("/")
            print(f"{point.label} {name}: {value.value} ({value.low} to {value.high})")
            assert value.value == pytest.approx(run.figures[task][f"{metric},none"], rel=1e-3)
        for task in TASKS:
            ours = [row["answers"] for row in rows[point.label] if row["id"].startswith(f"{task}/")]
            theirs = [[one[0] for one in answers] for answers in run.answers[task]]
            if task == "general_writing":
                assert [[one.lstrip() for one in texts] for texts in theirs] == ours
            else:
                print(f"{point.label} {task}: log-likelihoods within {far(ours, theirs):.1e}")
                assert alike(ours, theirs)
    for name, difference in compared.differences.items():
        task, _, metric = name.partition("/")
        gain = [expected[label].figures[task][f"{metric},none"] for label in ("head", "base")]
        scale = abs(gain[1]) * 1e-3 + 1e-9
        assert difference.value == pytest.approx(gain[0] - gain[1], abs=2 * scale)
        assert difference.low <= difference.value <= difference.high


def test_a_task_of_the_operators_folder_may_bring_functions(model: Path, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    shutil.copytree(Path(__file__).parent / "tasks", tasks)
    (tasks / "first.py").write_text("def two(docs):\n    return docs.select([0, 1])\n")
    task = (tasks / "own_choice.yaml").read_text().replace("own_choice", "two_choices")
    (tasks / "two.yaml").write_text(task + "process_docs: !function first.two\n")
    with serving(model, tmp_path, JEEP_LM_EVAL_TASKS=str(tasks)) as url, Client(url) as client:
        job = client.evaluate("lm-eval:two.yaml", ["base"])
        client.wait(job.id)
        result = client.evaluation(job.resource_id).result
        assert result is not None
        [point] = result.points
        assert (point.cases, point.metrics["two_choices/acc"].cases) == (2, 2)
