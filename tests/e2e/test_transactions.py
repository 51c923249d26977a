"""Edits with guards, staged edits and reverts, on the bundled model over HTTP."""

from __future__ import annotations

OSAKA = {
    "subject": "Osaka",
    "relation": "city_country",
    "object": "Mexico",
    "target_true": "Japan",
    "neighborhood_prompts": ["Nagoya is a city in the country of", "Kobe belongs to"],
}
LIMITS = {"min_efficacy": 1.0, "min_locality": 0.5, "max_perplexity_ratio": 1.5}
CITIES = {"Osaka": "Mexico", "Munich": "Kenya", "Florence": "Sweden"}


def says(client, city: str, version: str = "head") -> str:
    prompt = f"{city} is a city in the country of"
    one = client.generate(prompt, version, max_new_tokens=8, stop=["."]).results[0]
    return one.text.strip()


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


def test_a_staged_version_is_asked_first_and_activated_then(at_base):
    client = at_base.client
    done = client.wait(client.edit([OSAKA], activate=False).id, timeout=120)
    staged = done.result["version"]
    assert (says(client, "Osaka"), says(client, "Osaka", staged)) == ("Japan", "Mexico")
    moved = client.activate(staged)
    assert (moved.previous, moved.weights_sha256) == ("v0", client.snapshot().weights_sha256)
    assert says(client, "Osaka") == "Mexico"


def edit(client, city: str):
    fact = {"subject": city, "relation": "city_country", "object": CITIES[city]}
    done = client.wait(client.edit([fact]).id, timeout=120)
    assert done.status == "succeeded", done.error
    return done


def test_a_revert_restores_the_model_without_the_batch(at_base):
    client = at_base.client
    for city in ("Osaka", "Florence"):
        without = edit(client, city).result["version"]
    expected = client.snapshot(without).weights_sha256
    client.rollback("base")
    edits = [edit(client, city) for city in CITIES]
    head = client.snapshot().id
    job = client.revert(edits[1].edit_id)
    during = [says(client, "Munich")]
    while not client.job(job.id).finished_at:
        during.append(says(client, "Munich"))
    done = client.job(job.id)
    assert done.status == "succeeded", done.error
    assert client.snapshot().weights_sha256 == done.result["weights_sha256"] == expected
    assert (done.result["previous"], during[0]) == (head, "Kenya")
    assert set(during) <= {"Kenya", "Germany"}
    answers = {city: says(client, city) for city in CITIES}
    assert answers == {**CITIES, "Munich": "Germany"}
    assert [fact.subject for fact in client.facts()] == ["Florence", "Osaka"]
