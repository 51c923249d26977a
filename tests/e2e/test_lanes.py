"""What happens at the same time: generation beside edits, rollbacks, cancels, killed workers."""

from __future__ import annotations

import json
import os
import signal
import time

from service.client import Client
from service.contracts.jobs import JobStatus
from service.contracts.schemas import JobOut

OSAKA = "Osaka is a city in the country of"
FACT = {"subject": "Osaka", "relation": "city_country", "object": "Mexico"}


def wait_for_phase(client: Client, job_id: str, phase: str) -> JobOut:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job = client.job(job_id)
        if job.status is not JobStatus.QUEUED and job.progress.phase == phase:
            return job
        assert job.status in (JobStatus.QUEUED, JobStatus.RUNNING), job
        time.sleep(0.02)
    raise AssertionError(f"{job_id} never came to {phase}")


def answer(client: Client) -> tuple[str, str]:
    [one] = client.generate(OSAKA, max_new_tokens=6, stop=["."]).results
    return one.version, one.text.strip()


def test_generation_answers_from_the_old_version_until_the_commit(at_base, many_facts):
    client = at_base.client
    facts = [FACT, *(f for f in many_facts[:12] if f["subject"] != "Osaka")]
    job = client.edit(facts)
    wait_for_phase(client, job.id, "optimise")
    during = []
    while client.job(job.id).status is JobStatus.RUNNING:
        during.append(answer(client))
    done = client.job(job.id)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert during[0] == ("v0", "Japan")
    versions = [version for version, _ in during]
    assert set(versions) <= {"v0", done.result["version"]}
    assert versions == sorted(versions, key=lambda v: v != "v0"), "never back to the old one"
    assert all(text == "Japan" for version, text in during if version == "v0")
    assert answer(client) == (done.result["version"], "Mexico")


def test_a_rollback_during_an_edit_wins_and_the_edit_changes_nothing(at_base, many_facts):
    client = at_base.client
    client.wait(client.edit([FACT]).id, timeout=120)
    before = {snapshot.id for snapshot in client.snapshots()}
    job = client.edit(many_facts[:8])
    wait_for_phase(client, job.id, "optimise")
    client.rollback("base")
    done = client.wait(job.id, timeout=120)
    assert done.status is JobStatus.FAILED
    assert done.error is not None
    assert done.error.code == "version_conflict"
    assert client.snapshot("head").id == "v0"
    assert {snapshot.id for snapshot in client.snapshots()} == before


def test_cancelling_a_running_job_changes_nothing(at_base, many_facts):
    client = at_base.client
    job = client.edit(many_facts)
    wait_for_phase(client, job.id, "optimise")
    client.cancel(job.id)
    assert client.wait(job.id, timeout=30).status is JobStatus.CANCELLED
    assert client.snapshot("head").id == "v0"


def test_cancelling_a_queued_job_leaves_the_running_one_alone(at_base, many_facts):
    client = at_base.client
    first, second = client.edit(many_facts[:6]), client.edit([FACT])
    wait_for_phase(client, first.id, "optimise")
    client.cancel(second.id)
    assert client.job(second.id).status is JobStatus.CANCELLED
    assert client.wait(first.id, timeout=120).status is JobStatus.SUCCEEDED
    assert answer(client)[1] == "Japan"


def test_jobs_run_in_the_order_of_submission(at_base):
    client = at_base.client
    cities = ("Osaka", "Munich", "Florence")
    jobs = [client.edit([{**FACT, "subject": city}]) for city in cities]
    results = [client.wait(job.id, timeout=120).result for job in jobs]
    assert [r["parent"] for r in results] == ["v0", results[0]["version"], results[1]["version"]]


def test_an_idempotent_submit_is_executed_once(at_base):
    client = at_base.client
    jobs = [client.edit([FACT], idempotency_key="same") for _ in range(3)]
    assert len({job.id for job in jobs}) == 1
    client.wait(jobs[0].id, timeout=120)
    again = client.edit([FACT], idempotency_key="same")
    assert (again.id, again.status) == (jobs[0].id, JobStatus.SUCCEEDED)
    assert client.snapshot("head").parent == "v0"


def test_a_killed_worker_s_job_is_executed_once(own_service, many_facts):
    client = own_service.client
    before = {version.id for version in client.snapshots()}
    first = client.wait(client.edit([FACT]).id, timeout=120).result["version"]
    job = client.edit(many_facts[:6])
    wait_for_phase(client, job.id, "optimise")
    own_service.kill_worker()
    done = client.wait(job.id, timeout=120)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert done.attempt == 2
    versions = [version for version in client.snapshots() if version.id not in before]
    assert [v.id for v in versions if v.job_id == job.id] == [done.result["version"]]
    head = client.snapshot("head")
    assert (head.id, head.parent) == (done.result["version"], first)
    assert [v.parent for v in versions] == [first, "v0"]
    assert answer(client)[0] == head.id


def test_a_killed_queue_server_is_started_again(own_service):
    client = own_service.client
    owner = json.loads((own_service.store / "valkey" / "owner.json").read_text())
    os.kill(owner["server"], signal.SIGKILL)
    assert client.wait(client.edit([FACT]).id, timeout=120).status is JobStatus.SUCCEEDED
    client.wait_ready(30)
    assert answer(client)[1] == "Mexico"


def test_a_restarted_service_comes_back_on_its_version(own_service):
    own_service.client.wait(own_service.client.edit([FACT]).id, timeout=120)
    head, said = own_service.client.snapshot("head"), answer(own_service.client)
    assert own_service.stop() == 0
    own_service.start_again()
    assert own_service.client.snapshot("head").weights_sha256 == head.weights_sha256
    assert answer(own_service.client) == said
