"""Guards over HTTP on the bundled model, whose own held-out text perplexity is measured on."""

from __future__ import annotations

OSAKA = {
    "subject": "Osaka",
    "relation": "city_country",
    "object": "Mexico",
    "target_true": "Japan",
    "neighborhood_prompts": ["Nagoya is a city in the country of", "Kobe belongs to"],
}
LIMITS = {"min_efficacy": 1.0, "min_locality": 0.5, "max_perplexity_ratio": 1.5}


def test_an_edit_within_its_limits_reports_every_figure(at_base):
    done = at_base.client.wait(at_base.client.edit([OSAKA], guards=LIMITS).id, timeout=120)
    assert done.status == "succeeded", done.error
    found = done.result["guards"]
    assert found["efficacy"] == 1.0 > found["efficacy_before"]
    assert found["locality"] >= 0.5
    assert 0.9 < found["perplexity_ratio"] < 1.5
    assert found["perplexity"] / found["perplexity_before"] == found["perplexity_ratio"]


def test_a_tripped_guard_changes_nothing(at_base):
    client = at_base.client
    before = [snapshot.id for snapshot in client.snapshots()]
    job = client.edit([OSAKA], guards={**LIMITS, "max_perplexity_ratio": 0.5})
    done = client.wait(job.id, timeout=120)
    assert (done.status, done.error.code) == ("failed", "guard_failed")
    [error] = done.error.errors
    assert error["pointer"] == "/guards/max_perplexity_ratio"
    assert f"{error['figure']:.4g}" in done.error.message
    assert [snapshot.id for snapshot in client.snapshots()] == before
    assert client.snapshot("head").id == "v0"
