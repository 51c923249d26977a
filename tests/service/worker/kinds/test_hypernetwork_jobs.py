"""Training jobs: a real network for a tiny model, interrupted in every way."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from redis import Redis
from support.library import tiny
from support.service.played_worker.computing import Killed
from support.service.played_worker.jobs import cancel
from support.service.played_worker.worker import PlayedWorker

from jeep_core.editing import edit
from jeep_core.models.loading import LoadedModel
from service.contracts.jobs import Job, JobKind, JobStatus, Progress, new_id, now
from service.contracts.schemas import HypernetworkPayload, Network, TrainingOptions
from service.store import Store
from service.store.base.networks import network_out, networks_of

SUBJECTS = ("Lima", "Oslo", "Paris", "Rome", "Kyiv", "Bonn", "Quito", "Cairo", "Delhi", "Tunis")
HPARAMS: dict[str, Any] = {"layers": [2, 3], "rank": 4, "n_blocks": 1}
STEPS = 6
FACT = {"subject": "Lima", "prompt": "{} is a city in the country of", "target_new": "Norway"}


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return tiny.random_model("gptj")


@pytest.fixture
def trained_on(based: Store) -> Store:
    """A store with a file to train on."""
    cases = [
        {
            "requested_rewrite": {
                "prompt": "{} is a city in the country of",
                "subject": subject,
                "target_new": {"str": "Norway"},
                "target_true": {"str": "Peru"},
            },
            "paraphrase_prompts": [f"{subject} lies in"],
            "neighborhood_prompts": ["Lyon lies in"],
        }
        for subject in SUBJECTS
    ]
    (based.base.training_folder / "cases.json").write_text(json.dumps(cases))
    return based


def training_job(store: Store, **options: Any) -> Job:
    payload = HypernetworkPayload(
        editor="mend",
        preset=None,
        hparams=HPARAMS,
        options=TrainingOptions(**{"steps": STEPS, "facts": 3, "save_every": 2, **options}),
        data="cases.json",
    )
    job = Job(
        id=new_id("job"),
        kind=JobKind.HYPERNETWORK,
        payload=payload.model_dump(),
        created_at=now(),
    )
    store.journal.add(job)
    return job


def networks(store: Store, base: LoadedModel) -> list[Network]:
    return [network_out(r) for r in networks_of(store.base, base.name, base.model_hash)]


def told(client: Redis, store: Store, base: LoadedModel, at: int, event: Any) -> list[Progress]:
    """Work until the queue is empty; after step ``at`` the ``event`` happens.  The progress."""
    heard: list[Progress] = []
    worker = PlayedWorker.reading(client, store.root, base=base)
    publish = worker.queue.progress

    def progress(job_id: str, reached: Progress) -> None:
        heard.append(reached)
        publish(job_id, reached)
        if (reached.phase, reached.done) == ("train", at):
            event(worker, job_id)

    worker.queue.progress = progress  # type: ignore[method-assign]
    with suppress(Killed):
        worker.work()
    return heard


def steps(heard: list[Progress]) -> list[int]:
    return [reached.done for reached in heard if reached.phase == "train"]


def die(*_: object) -> None:
    raise Killed


@pytest.fixture(autouse=True)
def _all_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is published, however fast it comes."""
    monkeypatch.setattr("service.worker.lanes.control.REPORT_EVERY_S", 0.0)


def test_a_network_is_there_when_its_job_has_ended(
    client: Redis, trained_on: Store, base: LoadedModel
) -> None:
    job = training_job(trained_on)
    assert networks(trained_on, base) == []
    heard = told(client, trained_on, base, 0, die)
    done = trained_on.journal.read(job.id)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert steps(heard) == [1, 2, 3, 4, 5, 6]
    assert all(reached.eta_seconds is not None for reached in heard[-3:])
    [network] = networks(trained_on, base)
    assert network == Network.model_validate(done.result)
    assert (network.editor, network.layers, network.rank) == ("mend", [2, 3], 4)
    assert (network.data, network.shipped) == ("cases.json", False)
    assert network.settings["steps"] == STEPS
    result = edit(
        base, [FACT], "mend", hparams=HPARAMS, hypernetworks=trained_on.base.networks_folder
    )
    assert len(result.delta.updates) == 2
    assert list((trained_on.root / "work").iterdir()) == []


@pytest.mark.parametrize("killed_at", [3, STEPS])
def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_network(
    client: Redis, trained_on: Store, base: LoadedModel, killed_at: int
) -> None:
    whole = training_job(trained_on)
    told(client, trained_on, base, 0, die)
    [uninterrupted] = networks(trained_on, base)
    cut = training_job(trained_on)
    told(client, trained_on, base, killed_at, die)
    assert trained_on.journal.read(cut.id).status is JobStatus.QUEUED
    again = told(client, trained_on, base, 0, die)
    assert steps(again) == list(range(killed_at // 2 * 2 + 1, STEPS + 1))
    assert trained_on.journal.read(cut.id).attempt == 2
    [network] = networks(trained_on, base)
    assert network.sha256 == uninterrupted.sha256
    assert trained_on.journal.read(whole.id).status is JobStatus.SUCCEEDED


def test_a_stopped_worker_gives_the_training_back(
    client: Redis, trained_on: Store, base: LoadedModel
) -> None:
    job = training_job(trained_on)
    told(client, trained_on, base, 4, lambda worker, _: worker.lane.stop.set())
    assert trained_on.journal.read(job.id).status is JobStatus.QUEUED
    assert steps(told(client, trained_on, base, 0, die)) == [5, 6]
    assert trained_on.journal.read(job.id).attempt == 1


def test_a_cancelled_training_leaves_no_network(
    client: Redis, trained_on: Store, base: LoadedModel
) -> None:
    job = training_job(trained_on)
    told(client, trained_on, base, 3, lambda _, job_id: cancel(client, trained_on, job_id))
    assert trained_on.journal.read(job.id).status is JobStatus.CANCELLED
    assert networks(trained_on, base) == []
    assert list((trained_on.root / "work").iterdir()) == []


def test_a_file_that_has_gone_meanwhile_fails_the_job(
    client: Redis, trained_on: Store, base: LoadedModel
) -> None:
    job = training_job(trained_on)
    (trained_on.base.training_folder / "cases.json").unlink()
    told(client, trained_on, base, 0, die)
    error = trained_on.journal.read(job.id).error
    assert error is not None
    assert (error.code, error.errors[0]["pointer"]) == ("invalid_request", "/data")
