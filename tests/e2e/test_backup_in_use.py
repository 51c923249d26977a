"""A backup taken while edits run, restored elsewhere, ends with the same weights."""

from __future__ import annotations

from typer.testing import CliRunner

from service.cli import app

FACTS = {
    "Lyon": "Japan", "Turin": "Mexico", "Porto": "Kenya", "Leeds": "Sweden", "Bergen": "Peru",
}  # fmt: skip
"""So many that the last ones wait until a backup is done."""


def jeep(*words):
    shown = CliRunner().invoke(app, [*map(str, words)])
    assert shown.exit_code == 0, shown.output


def head_weights(service):
    return service.client.snapshot("head").weights_sha256


def test_a_store_restored_elsewhere_ends_with_the_same_weights(own_service, serve_store, tmp_path):
    client = own_service.client
    jobs = [
        client.edit([{"subject": city, "relation": "city_country", "object": country}]).id
        for city, country in FACTS.items()
    ]
    client.wait(jobs[0], timeout=120)
    jeep("backup", tmp_path / "during", "--store", own_service.store)
    assert client.job(jobs[-1]).status != "succeeded"
    for job in jobs:
        assert client.wait(job, timeout=120).status == "succeeded"
    jeep("backup", tmp_path / "after", "--store", own_service.store)

    for name in ("during", "after"):
        jeep("restore", tmp_path / name, "--store", tmp_path / f"from-{name}")
        restored = serve_store(tmp_path / f"from-{name}")
        for job in jobs:  # those that the first backup found waiting are run here
            assert restored.client.wait(job, timeout=120).status == "succeeded"
        assert head_weights(restored) == head_weights(own_service)
