"""Editors that follow gradients, through the service: edits, rollbacks, missing networks."""

from __future__ import annotations

import pytest

OSAKA = {"subject": "Osaka", "relation": "city_country", "object": "Mexico"}


@pytest.mark.parametrize("editor", ["ft-wd", "malmen"])
def test_an_edit_is_a_version_like_any_other(at_base, editor):
    before = at_base.client.snapshot("base").weights_sha256
    answer = at_base.http.post(
        "/edits", json={"facts": [OSAKA], "editor": editor}, headers={"Prefer": "wait=120"}
    ).json()
    assert answer["status"] == "succeeded", answer
    [fact] = answer["result"]["facts"]
    assert fact["after"]["p_new"] > fact["before"]["p_new"]
    assert answer["result"]["layers"]
    assert answer["result"]["peak_memory_mb"] is None
    edited = at_base.client.snapshot("head").weights_sha256
    at_base.client.rollback("base")
    assert at_base.client.snapshot("head").weights_sha256 == before != edited


def test_a_trained_network_is_used_at_once(at_base):
    """Refused, trained beside other work, accepted: without a restart."""
    body = {"facts": [OSAKA], "editor": "mend", "hparams": {"layers": [8], "rank": 2}}
    refused = at_base.http.post("/edits", json=body)
    assert (refused.status_code, refused.json()["code"]) == (409, "no_hypernetwork")
    trained = at_base.client.train_hypernetwork("mend", hparams=body["hparams"], steps=2, facts=2)
    assert at_base.client.wait(trained.id, timeout=240).status == "succeeded"
    assert at_base.client.job(trained.id).progress.phase == "train"
    edited = at_base.http.post("/edits", json=body, headers={"Prefer": "wait=120"}).json()
    assert edited["status"] == "succeeded", edited
    assert {network.rank for network in at_base.client.hypernetworks()} == {2, 128}


def test_without_a_network_the_answer_says_how_to_make_one(at_base):
    body = {"facts": [OSAKA], "editor": "mend", "hparams": {"rank": 7}}
    answer = at_base.http.post("/edits", json=body)
    assert answer.status_code == 409
    [problem] = answer.json()["errors"]
    assert (problem["pointer"], problem["code"]) == ("/editor", "no_hypernetwork")
    assert "jeep networks train mend atlas-gptj --layers 6,7,8 --rank 7" in problem["message"]
    assert at_base.client.snapshot("head").id == at_base.client.snapshot("base").id
