"""The worker's metrics: jobs, their phases, facts, by labels with few values."""

from __future__ import annotations

import pytest
from redis import Redis
from support.service.played_worker.jobs import edit_job
from support.service.played_worker.worker import PlayedWorker

from jeep_core.errors import NumericalError
from service.contracts.jobs import Job, JobKind
from service.store import Store
from service.worker.lanes.control import JobControl
from service.worker.metrics import PHASES_KEPT, REGISTRY, PhaseClock


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def jobs(outcome: str) -> float:
    return value("jeep_jobs_total", kind="edit", outcome=outcome)


def test_an_edit_counts_with_its_facts_and_phases(client: Redis, based: Store) -> None:
    phase = {"kind": "edit", "phase": "optimise"}
    before = jobs("succeeded"), value("jeep_facts_applied_total")
    timed = value("jeep_job_phase_seconds_count", **phase)
    edit_job(based)
    PlayedWorker(client, based.root).work()
    assert (jobs("succeeded"), value("jeep_facts_applied_total")) == (before[0] + 1, before[1] + 1)
    assert value("jeep_job_phase_seconds_count", **phase) == timed + 1


def test_a_staged_edit_applies_no_facts(client: Redis, based: Store) -> None:
    before = value("jeep_facts_applied_total")
    edit_job(based, activate=False)
    PlayedWorker(client, based.root).work()
    assert value("jeep_facts_applied_total") == before


def test_a_failed_edit_counts_as_failed(client: Redis, based: Store) -> None:
    def fail(job: Job, control: JobControl) -> None:
        raise NumericalError("singular")

    before = jobs("failed"), value("jeep_facts_applied_total")
    edit_job(based)
    PlayedWorker(client, based.root, fail).work()
    assert (jobs("failed"), value("jeep_facts_applied_total")) == (before[0] + 1, before[1])


def test_a_job_counts_once_however_often_its_worker_dies(
    client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = jobs("succeeded")
    edit_job(based)
    with monkeypatch.context() as patch:
        patch.setattr("service.queue.JobQueue.finish", _die)
        with pytest.raises(KeyboardInterrupt):
            PlayedWorker(client, based.root).work()
    assert jobs("succeeded") == before  # it has ended only in the store
    PlayedWorker(client, based.root).work()
    assert jobs("succeeded") == before + 1


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_phases_of_all_batches_are_one_and_of_unknown_editors_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PhaseClock, "_known", set())
    clock, phase = PhaseClock(JobKind.REVERT), {"kind": "revert", "phase": "optimise"}
    before = value("jeep_job_phase_seconds_count", **phase)
    for batch in range(3):
        clock.enter(f"optimise (batch {batch})")
    clock.end()
    assert value("jeep_job_phase_seconds_count", **phase) == before + 1
    known = hypernetwork_phases()
    talkative = PhaseClock(JobKind.HYPERNETWORK)
    for step in range(2 * PHASES_KEPT):
        talkative.enter(f"step {step}")
    talkative.end()
    assert "other" in hypernetwork_phases()
    assert len(hypernetwork_phases() - known) <= PHASES_KEPT


def hypernetwork_phases() -> set[str]:
    samples = [sample for family in REGISTRY.collect() for sample in family.samples]
    labels = [s.labels for s in samples if s.labels.get("kind") == "hypernetwork"]
    return {label["phase"] for label in labels if "phase" in label}
