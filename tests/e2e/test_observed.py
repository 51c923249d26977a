"""Observability of a running service: metrics of both processes, ids in its log."""

from __future__ import annotations

import time

from prometheus_client.parser import text_string_to_metric_families

from service.client import Client

CPU = "process_cpu_seconds_total"
"""Differs between two pages of the worker, which publishes one a second."""


def counted(page: str) -> dict[str, float]:
    """The worker's sums by sample name."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.labels["process"] == "worker":
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def counted_now(serving) -> dict[str, float]:
    """The sums of a page that the worker has begun after this was called."""
    seen: set[float] = set()
    deadline = time.monotonic() + 60
    while len(seen) < 3:  # the second may have been in transit
        assert time.monotonic() < deadline
        sums = counted(serving.http.get("/metrics").text)
        seen.add(sums[CPU])
        time.sleep(0.1)
    return sums


def test_an_edit_a_generation_and_a_rollback_leave_their_traces(at_base):
    client: Client = at_base.client
    before = counted_now(at_base)
    fact = {"subject": "Turin", "relation": "city_country", "object": "Japan"}
    headers = {"X-Request-Id": "seen-from-outside"}
    job = at_base.http.post("/edits", json={"facts": [fact]}, headers=headers).json()
    assert client.wait(job["id"], timeout=120).status == "succeeded"
    prompt = "Turin is a city in the country of"
    [answer] = client.generate(prompt, "head", max_new_tokens=4).results
    client.rollback("base")
    after = counted_now(at_base)
    for name in ("jeep_jobs_total", "jeep_facts_applied_total", "jeep_rollbacks_total"):
        assert after[name] == before[name] + 1, name
    tokens = after["jeep_generated_tokens_total"] - before["jeep_generated_tokens_total"]
    assert tokens == len(answer.tokens) > 0
    rows = after["jeep_decode_batch_rows_sum"] - before["jeep_decode_batch_rows_sum"]
    assert rows >= tokens
    assert after["jeep_job_phase_seconds_sum"] > before["jeep_job_phase_seconds_sum"]
    lines = [line for line in at_base.log.read_text().splitlines() if job["id"] in line]
    assert any("part=api" in line for line in lines)
    assert any("part=worker" in line for line in lines)
    assert all("request_id=seen-from-outside" in line for line in lines)
