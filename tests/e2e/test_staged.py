"""A staged edit on the bundled model: it answers before it is head, and is head on request."""

from __future__ import annotations

PROMPT = "Osaka is a city in the country of"
FACT = {"subject": "Osaka", "relation": "city_country", "object": "Mexico"}


def test_a_staged_version_is_asked_first_and_activated_then(at_base):
    client = at_base.client

    def says(version: str) -> str:
        one = client.generate(PROMPT, version, max_new_tokens=6, stop=["."]).results[0]
        return one.text.strip()

    done = client.wait(client.edit([FACT], activate=False).id, timeout=120)
    staged = done.result["version"]
    assert (says("head"), says(staged)) == ("Japan", "Mexico")
    moved = client.activate(staged)
    assert (moved.previous, moved.weights_sha256) == ("v0", client.snapshot().weights_sha256)
    assert says("head") == "Mexico"
