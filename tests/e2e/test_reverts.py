"""A batch is taken out of the bundled model's history while it goes on answering."""

from __future__ import annotations

CITIES = {"Osaka": "Mexico", "Munich": "Kenya", "Florence": "Sweden"}


def edit(client, city: str):
    fact = {"subject": city, "relation": "city_country", "object": CITIES[city]}
    done = client.wait(client.edit([fact]).id, timeout=120)
    assert done.status == "succeeded", done.error
    return done


def says(client, city: str) -> str:
    prompt = f"{city} is a city in the country of"
    return client.generate(prompt, max_new_tokens=8, stop=["."]).results[0].text.strip()


def test_the_model_is_as_if_the_batch_had_never_been(at_base):
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
