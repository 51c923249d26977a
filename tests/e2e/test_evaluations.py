"""Suites and evaluations through a whole service: upload, measure, compare, try an editor."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from jeep_core import atlas
from service.cli import app


@pytest.fixture(scope="module")
def suite(service, tmp_path_factory) -> str:
    """Twelve cases of the bundled suite, uploaded."""
    records = json.loads(atlas.SUITES["atlas-counterfact"].read_text(encoding="utf-8"))[:12]
    path = tmp_path_factory.mktemp("suite") / "twelve.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    service.client.add_suite("twelve", path)
    return "twelve"


def facts() -> list[dict[str, str]]:
    rewrites = [
        record["requested_rewrite"]
        for record in json.loads(atlas.SUITES["atlas-counterfact"].read_text(encoding="utf-8"))
    ]
    return [
        {
            "subject": rewrite["subject"],
            "prompt": rewrite["prompt"],
            "target_new": rewrite["target_new"]["str"],
        }
        for rewrite in rewrites[:6]
    ]


def test_an_edit_is_proved_by_an_evaluation(at_base, suite, tmp_path):
    """Half of the suite's facts are edited: they get better, and nothing else changes head."""
    edited = at_base.client.wait(at_base.client.edit(facts()).id, timeout=120)
    head = edited.result["version"]
    job = at_base.client.evaluate(suite, ["base", "head"], fluency_texts=4)
    assert at_base.client.wait(job.id, timeout=120).status == "succeeded"
    found = at_base.client.evaluation(job.evaluation_id)
    base, after = found.result.points
    assert (base.version, after.version) == ("v0", head)
    assert base.metrics["efficacy"].value < 20
    assert after.metrics["efficacy"].value >= 50
    assert after.metrics["efficacy"].low < after.metrics["efficacy"].value
    assert after.perplexity > 1
    compared = at_base.client.compare(job.evaluation_id, "base", "head")
    assert {"0", "1", "2", "3", "4", "5"} >= {change.id for change in compared.better}
    assert len(compared.better) >= 5
    path = tmp_path / "cases.jsonl"
    at_base.client.evaluation_cases(job.evaluation_id, path)
    assert len(path.read_text().splitlines()) == 24


def test_a_trial_writes_no_version(at_base, suite):
    """From the command line, with what got better."""
    before = [snapshot.id for snapshot in at_base.client.snapshots()]
    command = [
        "evaluate", suite, "--editor", "memit", "--n-edits", "0", "--n-edits", "8",
        "--fluency-texts", "0", "--compare", "--url", at_base.url,
    ]  # fmt: skip
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "memit-8" in shown.output
    assert "better" in shown.output
    assert [snapshot.id for snapshot in at_base.client.snapshots()] == before
    listed = CliRunner().invoke(app, ["suites", "--url", at_base.url], env={"COLUMNS": "200"})
    assert "twelve" in listed.output
    assert "atlas-zsre" in listed.output
