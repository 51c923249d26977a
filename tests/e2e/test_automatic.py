"""Probes through a whole service, and an edit whose layers come from one."""

from __future__ import annotations

from typer.testing import CliRunner

from jeep_core.suites import load_suite
from service.cli import app

FACT = {"subject": "Lyon", "relation": "city_country", "object": "Japan", "target_true": "France"}


def test_an_edit_with_automatic_hyper_parameters_probes_the_model_once(at_base, many_facts):
    phases: list[set[str]] = []
    for facts in ([FACT], many_facts[:4]):
        job = at_base.client.edit(facts, hparams="auto")
        seen: set[str] = set()
        done = at_base.client.wait(
            job.id, lambda status, progress, seen=seen: seen.add(progress.phase), timeout=240
        )
        assert done.status == "succeeded", done.error
        phases.append(seen)
    assert "probe" in phases[0] - phases[1]
    edit = at_base.client.edit_result(job.edit_id)
    assert edit.result.greedy_success >= 0.75
    assert edit.preset is None
    assert edit.hparams["low"]["layers"] == [1, 2]
    assert edit.hparams["high"]["layers"] == [7]
    assert {layer.layer for layer in edit.result.layers} == {1, 2, 7}


def test_a_probe_from_the_command_line(at_base, tmp_path):
    command = [
        "probes", "run", "atlas-counterfact", "--version", "base", "--limit", "12",
        "--out", str(tmp_path / "out"), "--url", at_base.url,
    ]  # fmt: skip
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "low [" in shown.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"probe.json", "answers.png", "word-sets.svg"} <= names
    job = at_base.client.probe(
        facts=[
            {"subject": case.subject, "prompt": case.prompt, "target_new": case.target_new}
            for case in load_suite("atlas-counterfact").cases[:12]
        ],
        limit=8,
    )
    done = at_base.client.wait(job.id, timeout=120)
    assert done.status == "succeeded", done.error
    found = at_base.client.probe_result(job.probe_id)
    assert found.record["prompts"]["original_assumed"] == found.result.prompts
