"""One bit of a file flips that edits and measurements read: suites, moments, networks, reports.

What needs it is refused with a message that names the file; everything else continues.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.faults.checks import assert_whole
from support.faults.flips import flipped, refused, thorough
from support.faults.harness import CASES, HPARAMS, READ_JOBS, SUITE, Service
from support.faults.processes import until

from jeep_core.probe.defaults.kept import keep
from service.contracts.jobs import JobStatus
from service.contracts.schemas import JobOut


@pytest.fixture(scope="module")
def read(kept: Service) -> dict[str, JobOut]:
    """The jobs that write no version, ended."""
    jobs = {kind: kept.wait(kept.read_job(kind).id) for kind in READ_JOBS}
    assert {job.status for job in jobs.values()} == {JobStatus.SUCCEEDED}
    return jobs


@thorough
def test_what_the_worker_published_is_published_again(kept: Service) -> None:
    for name in ("info.json", "tokenizer.json"):
        path = kept.root / "model" / name
        with flipped(path):
            kept.api.stop()
            kept.api.start()
            until(kept.answers, "the api is there")
            refused(lambda: kept.client.edit([kept.fact()]), path)
            kept.restart("worker")
            kept.edited()
    assert_whole(kept)


@thorough
def test_damaged_inputs_of_an_edit_are_found(kept: Service) -> None:
    """Prefixes are sampled again; second moments are refused until their file is removed."""
    base = kept.root / "base"
    before = (base / "prefixes.json").read_bytes()
    with flipped(base / "prefixes.json"):
        kept.edited()
        assert (base / "prefixes.json").read_bytes() == before
    for path in sorted((base / "moments").glob("**/*.safetensors")):
        with flipped(path):
            kept.restart("worker")
            failed = kept.wait(kept.edit().id)
            assert failed.status is JobStatus.FAILED
            assert path.name in failed.error.message
            path.unlink()
            kept.restart("worker")
            kept.edited()
    assert_whole(kept)


@thorough
def test_damaged_second_moments_of_gradients_are_refused(kept: Service) -> None:
    given: dict[str, Any] = {"editor": "crispedit", "hparams": {"layers": [1, 2], "n_passes": 2}}
    folder = kept.root / "base" / "moments"
    before = set(folder.glob("moment-*.safetensors"))
    kept.edited(**given)
    made = sorted(set(folder.glob("moment-*.safetensors")) - before)
    assert len(made) >= 2
    for path in made:
        with flipped(path, 0.6):
            kept.restart("worker")
            failed = kept.wait(kept.edit(**given).id)
            assert failed.status is JobStatus.FAILED
            assert path.name in failed.error.message
            path.unlink()
            kept.restart("worker")
            kept.edited(**given)
    assert_whole(kept)


@thorough
def test_a_damaged_anchor_is_measured_again(kept: Service) -> None:
    given = {"hparams": {**HPARAMS, "norm_anchor": True}}
    kept.edited(**given)
    [path] = (kept.root / "base" / "probes").glob("anchor-*.json")
    whole = path.read_bytes()
    with flipped(path, 0.3):
        kept.edited(**given)
        assert path.read_bytes() == whole
    assert_whole(kept)


@thorough
@pytest.mark.parametrize("suffix", ["data", "json"])
def test_a_damaged_suite_is_named(kept: Service, suffix: str) -> None:
    path = kept.root / "suites" / f"{SUITE}.{suffix}"
    with flipped(path, 0.5):
        if suffix == "data":
            for kind in ("evaluation", "trial", "probe"):
                failed = kept.wait(kept.read_job(kind).id)
                assert (failed.status, failed.error.code) == (JobStatus.FAILED, "corrupt_file")
                assert str(path) in failed.error.message
        else:
            refused(lambda: kept.read_job("evaluation"), path)
            assert SUITE not in [suite.name for suite in kept.client.suites()]
        kept.edited()
    assert_whole(kept)


@thorough
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("evaluation", "hashes.json"),
        ("evaluation", "cases-0.jsonl"),
        ("evaluation", "comparisons.jsonl"),
        ("probe", "hashes.json"),
        ("probe", "probe.json"),
        ("probe", "answers.png"),
        ("check", "missing.jsonl"),
    ],
)
def test_a_damaged_report_is_named(
    kept: Service, read: dict[str, JobOut], kind: str, name: str, tmp_path: Path
) -> None:
    client, job = kept.client, read[kind]
    path = kept.root / "reports" / job.id / name
    kind_id = job.resource_id
    calls: dict[str, Callable[[], object]] = {
        "cases-0.jsonl": lambda: client.evaluation_cases(kind_id, tmp_path / "cases", "base"),
        "comparisons.jsonl": lambda: client.compare(kind_id, "base", "head"),
        "probe.json": lambda: client.probe_result(kind_id),
        "answers.png": lambda: client.probe_files(kind_id, tmp_path),
        "missing.jsonl": lambda: client.missing_facts(kind_id, tmp_path / "missing"),
    }
    calls["hashes.json"] = calls["cases-0.jsonl" if kind == "evaluation" else "probe.json"]
    with flipped(path, 0.5):
        refused(calls[name], path)
        kept.edited()
    calls[name]()
    assert_whole(kept)


@thorough
def test_damaged_answers_of_a_check_are_not_shown(kept: Service, read: dict[str, JobOut]) -> None:
    """Nor lost: the index has them again once the file is whole."""
    job = read["check"]

    def checked() -> set[str | None]:
        return {one.check_id for one in kept.client.facts(version=job.result["version"])}

    assert checked() == {job.resource_id}
    for part in ("worker", "api"):
        kept.part(part).stop()
    with flipped(kept.root / "reports" / job.id / "answers.jsonl", 0.5):
        (kept.root / "index" / "catalogue.sqlite").unlink()
        kept.revive()
        kept.wait_ready()
        assert checked() == {None}
        kept.edited()
    assert checked() == {job.resource_id}
    assert_whole(kept)


@thorough
@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_a_damaged_network_is_named(kept: Service, read: dict[str, JobOut], suffix: str) -> None:
    [network] = (kept.root / "base" / "hypernetworks").glob("*/mend.safetensors")
    path = network.with_suffix(f".{suffix}")
    layers = {"layers": [2, 3], "rank": 4, "n_blocks": 1}

    def edit() -> JobOut:
        return kept.edit(editor="mend", hparams=layers)

    with flipped(path, 0.5):
        if suffix == "json":
            refused(edit, path)
            refused(lambda: list(kept.client.hypernetworks()), path)
        else:
            failed = kept.wait(edit().id)
            assert failed.status is JobStatus.FAILED
            assert str(path) in failed.error.message
        kept.edited()
    assert kept.wait(edit().id).status is JobStatus.SUCCEEDED
    assert_whole(kept)


@thorough
def test_a_damaged_kept_probe_is_found(kept: Service) -> None:
    folder = kept.root / "base" / "probes"
    [known] = list(folder.glob("*.json")) or [None]
    model = json.loads((kept.root / "model.json").read_bytes())["model_hash"]
    path = known or keep(folder, {"model_hash": model, "hparams": None})
    with flipped(path, 0.5):
        failed = kept.wait(kept.edit(hparams="auto").id)
        assert failed.status is JobStatus.FAILED
        assert str(path) in failed.error.message
        kept.edited()
    if known is None:
        path.unlink()
    assert_whole(kept)


@thorough
def test_a_file_to_train_on_is_what_it_was_when_the_job_was_accepted(kept: Service) -> None:
    halts = kept.halt("worker", "read begin")
    job = kept.read_job("training")
    until(halts.reached, "the worker begins")
    with flipped(kept.root / "training" / CASES, 0.5):
        halts.let_go()
        failed = kept.wait(job.id)
        assert (failed.status, failed.error.code) == (JobStatus.FAILED, "corrupt_file")
        assert CASES in failed.error.message
    assert_whole(kept)
