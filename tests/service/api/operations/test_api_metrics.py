"""``/metrics``: the metrics that dashboards need are there, from api, queue and worker."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly
from prometheus_client.parser import text_string_to_metric_families
from support import ROOT
from support.service.finished_jobs import SUITE
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import make_settings, running

from service.contracts.schemas.targets import NewTarget, TargetKind, TargetState
from service.queue import Heartbeat, Keys
from service.store import Store

LISTED: dict[str, list[str]] = json.loads((ROOT / "tests" / "deploy/metric_names.json").read_text())
FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
Value = Callable[..., float | None]


@pytest.fixture
def value(http: httpx.Client) -> Value:
    """Reads one sample of the page; None if it is not there."""

    def read(name: str, **labels: str) -> float | None:
        families = text_string_to_metric_families(http.get("/metrics").text)
        found = [
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) <= 1
        return found[0] if found else None

    return read


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_metrics_have_the_format_of_prometheus(http: httpx.Client, worker: PlayedWorker) -> None:
    assert http.get("/metrics").headers["content-type"].startswith("text/plain; version=")
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = http.get("/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert list(strictly(answer.text))


def test_metrics_are_exactly_the_listed_ones_with_their_labels(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    wanted = NewTarget(name="smol", kind=TargetKind.VLLM, address="http://127.0.0.1:1")
    worker.store.targets.add(wanted, 1)
    shown = {}
    for family in text_string_to_metric_families(http.get("/metrics").text):
        name = family.name + ("_total" if family.type == "counter" else "")
        shown[name] = {label for s in family.samples for label in s.labels} - {"process", "le"}
    assert LISTED.keys() <= shown.keys()
    assert {name for name in shown if name.startswith("jeep_")} <= LISTED.keys()
    without_samples = {"jeep_gpu_memory_bytes", "jeep_job_phase_seconds"}
    without_samples |= {"jeep_worker_api_away_seconds", "jeep_worker_cached_bytes"}
    for name in LISTED.keys() - without_samples:
        assert shown[name] == {*LISTED[name]}, name


def test_the_gauges_say_what_is_served(
    worker: PlayedWorker, value: Value, http: httpx.Client
) -> None:
    assert value("jeep_version_info", model="atlas-gptj", device="cpu") == 1
    assert value("jeep_head_version") == 0
    assert http.post("/edits", json={"facts": [FACT]}).status_code == 202
    wait_for(lambda: value("jeep_head_version") == 1)


def test_a_target_that_answers_with_an_older_version_is_seen(
    worker: PlayedWorker, value: Value, http: httpx.Client
) -> None:
    targets = worker.store.targets
    wanted = NewTarget(name="smol", kind=TargetKind.VLLM, address="http://127.0.0.1:1")
    record = targets.add(wanted, 1)
    assert (value("jeep_target_version"), value("jeep_target_synced")) == (-1, 0)
    moved = worker.store.head.read().move.when
    targets.set_state(record.id, TargetState(version="v0", moved_at=moved, looked_at=moved))
    assert (value("jeep_target_version", target="smol"), value("jeep_target_synced")) == (0, 1)
    assert value("jeep_target_lag_versions", kind="vllm") == 0
    assert http.post("/edits", json={"facts": [FACT]}).status_code == 202
    wait_for(lambda: value("jeep_head_version") == 1)
    assert (value("jeep_target_synced"), value("jeep_target_lag_versions")) == (0, 1)
    wait_for(lambda: (value("jeep_target_lag_seconds") or 0) > 0)


def test_the_metrics_of_a_dead_worker_are_gone(
    worker: PlayedWorker, value: Value, http: httpx.Client
) -> None:
    assert value("jeep_worker_up") == 1
    assert value("process_resident_memory_bytes", process="worker")
    keys = Keys(worker.store.id)
    assert 0 < worker.client.pttl(keys.metrics) <= Heartbeat.TTL_MS  # however it dies
    worker.heartbeat.stop()
    assert value("jeep_worker_up") == 0
    assert 'process="worker"' not in http.get("/metrics").text
    assert value("process_resident_memory_bytes", process="api")


def test_without_a_queue_the_api_still_counts(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "store", "redis://127.0.0.1:1/0")
    with running(settings) as url:
        answer = httpx.get(f"{url}/metrics", timeout=20)
    assert answer.status_code == 200
    assert 'jeep_worker_up{process="api"} 0.0' in answer.text
    assert "jeep_queue_depth{" not in answer.text


class TestQueue:
    def test_a_running_job_is_not_counted_as_waiting(
        self, worker: PlayedWorker, value: Value, http: httpx.Client
    ) -> None:
        worker.go.clear()
        first, second = (http.post("/edits", json={"facts": [FACT]}).json() for _ in range(2))
        wait_for(lambda: http.get(f"/jobs/{first['id']}").json()["status"] == "running")
        assert value("jeep_queue_depth", lane="write") == 1
        for taker in ("writer", "any"):
            assert value("jeep_queue_depth", lane="read", taken_by=taker) == 0
            assert value("jeep_queue_oldest_age_seconds", lane="read", taken_by=taker) == 0
        wait_for(lambda: (value("jeep_queue_oldest_age_seconds", lane="write") or 0) > 0)
        worker.go.set()
        wait_for(lambda: http.get(f"/jobs/{second['id']}").json()["status"] == "succeeded")
        assert value("jeep_queue_depth", lane="write") == 0

    def test_an_interrupted_job_is_counted_as_waiting_without_a_worker(
        self, worker: PlayedWorker, value: Value, http: httpx.Client
    ) -> None:
        worker.go.clear()
        job = http.post("/edits", json={"facts": [FACT]}).json()
        wait_for(lambda: http.get(f"/jobs/{job['id']}").json()["status"] == "running")
        assert value("jeep_queue_depth", lane="write") == 0
        worker.heartbeat.stop()
        assert value("jeep_queue_depth", lane="write") == 1

    def test_followers_are_scaled_by_jobs_that_they_can_do(
        self, model: Store, value: Value, http: httpx.Client
    ) -> None:
        """A job of the writer waits for the writer, however many followers there are."""
        query = scaling_query()
        assert query["name"] == "jeep_queue_oldest_age_seconds"
        assert http.post("/snapshots/base/export", json={"format": "merged"}).status_code == 202
        wait_for(lambda: (value(query["name"], lane="read", taken_by="writer") or 0) > 0)
        assert value(**query) == 0
        assert http.post("/evaluations", json={"suite": SUITE}).status_code == 202
        wait_for(lambda: (value(**query) or 0) > 0)
        assert value("jeep_queue_depth", lane="read", taken_by="any") == 1


def scaling_query() -> dict[str, str]:
    """The metric by whose age the manifests add followers, and its labels."""
    manifest = ROOT / "deploy/kubernetes/rendered/gpu-scaled.yaml"
    [scaled] = [
        one for one in yaml.safe_load_all(manifest.read_text()) if one["kind"] == "ScaledObject"
    ]
    [query] = [
        trigger["metadata"]["query"]
        for trigger in scaled["spec"]["triggers"]
        if trigger["name"] == "age-of-the-queue"
    ]
    [(name, selected)] = re.findall(r"max\((\w+)\{(.*)\}\)", query)
    return {"name": name, **dict(re.findall(r'(\w+)="(\w+)"', selected))}


class TestCounts:
    """The counters are those of this process, which other tests have used."""

    def test_an_answered_generation_is_counted(
        self, worker: PlayedWorker, value: Value, http: httpx.Client
    ) -> None:
        before = value("jeep_generation_seconds_count")
        assert before is not None
        http.post("/generate", json={"prompt": "Lyon lies in"})
        http.post("/generate", json={"prompt": "fail"})
        assert value("jeep_generation_seconds_count") == before + 1

    def test_a_job_cancelled_before_it_began_is_counted(
        self, model: Store, value: Value, http: httpx.Client
    ) -> None:
        labels = {"kind": "edit", "outcome": "cancelled", "process": "api"}
        before = value("jeep_jobs_total", **labels)
        assert before is not None
        job = http.post("/edits", json={"facts": [FACT]}).json()
        assert http.post(f"/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
        assert value("jeep_jobs_total", **labels) == before + 1
