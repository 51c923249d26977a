"""An edit that failed: why, in words, and the form as it was, to change it and send it again."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import httpx
import pytest
from support.service.bundled_model import info
from support.service.console import HTML, seen

from service.contracts.jobs import JobError, JobStatus, now
from service.store import Store

LYON = {"subject": "Lyon", "prompt": "{} is in", "target_new": "Japan"}
SENT = {
    "facts": [LYON], "editor": "jeep", "preset": "jeep-atlas-gptj", "activate": False,
    "hparams": {"n_steps": 7, "low": {"layers": [1]}}, "snapshot_name": "mine",
    "guards": {"max_drift": 0.001}, "check_earlier": "all", "repair": True,
}  # fmt: skip


def failed(store: Store, job_id: str, *messages: str) -> None:
    errors = [{"pointer": "/guards/max_drift", "code": "max_drift", "message": one, "limit": 0.001}
              for one in messages]  # fmt: skip
    error = JobError(code="guard_failed", message="; ".join(messages), errors=errors)
    job = store.journal.read(job_id)
    changes = {"status": JobStatus.FAILED, "error": error, "finished_at": now()}
    store.journal.save(job.model_copy(update=changes))


def settings(page: httpx.Response) -> dict[str, Any]:
    found = re.search(r'data-settings="([^"]*)"', page.text)
    assert found
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("messages", [("the drift is 0.2",), ("the drift is 0.2", "it is slow")])
def test_a_failed_edit_says_why_and_is_filled_in_again(
    messages: tuple[str, ...], http: httpx.Client, model: Store
) -> None:
    job = http.post("/edits", json=SENT).json()
    failed(model, job["id"], *messages)
    outcome = http.get(f"/console/edit/{job['resource_id']}", headers=HTML)
    text = seen(outcome)
    assert "The drift is 0.2" in text
    assert "pointer" not in text
    assert text.count("It is slow.") == len(messages) - 1
    found = settings(http.get(f"/console/edit?again={job['resource_id']}", headers=HTML))
    assert found == {
        "fields": {
            "editor": "jeep", "preset": "jeep-atlas-gptj", "staged": True, "repair": True,
            "max_drift": "0.001", "check_earlier": "all", "snapshot_name": "mine",
        },
        "hparams": {"n_steps": "7", "low.layers": "[1]"},
    }  # fmt: skip
    assert settings(http.get("/console/edit", headers=HTML)) == {}


def test_changes_to_what_a_probe_chooses_are_filled_in_again(
    http: httpx.Client, model: Store
) -> None:
    """A model without presets: what the request changes is all that is known of them before."""
    tokenizer = model.base.published("tokenizer.json").read_bytes()
    bare = info().model_copy(update={"presets": {}, "preset_values": {}})
    model.base.publish(bare, {"tokenizer.json": tokenizer})
    job = http.post("/edits", json={"facts": [LYON], "hparams": {"exact": True}}).json()
    failed(model, job["id"], "the drift is 0.2")
    found = settings(http.get(f"/console/edit?again={job['resource_id']}", headers=HTML))
    assert found["hparams"] == {"exact": "true"}
