"""``"editor": "auto"`` of an edit: what is chosen, by what, and what is refused beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service.bundled_model import info, publish
from support.service.command import jeep
from support.service.played_worker.worker import PlayedWorker

from jeep_core.editors import EDITORS
from jeep_core.moments.source import imported_path
from service.client import Client
from service.contracts.schemas import Manifest
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
WAIT = {"Prefer": "wait=20"}


def planned(http: httpx.Client, *facts: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"facts": list(facts or [FACT]), "editor": "auto", **more}
    answer = http.post("/edits?dry_run=true", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def served(store: Store, **changes: Any) -> None:
    """The worker publishes another model."""
    tokenizer = store.base.published("tokenizer.json").read_bytes()
    store.base.publish(info().model_copy(update=changes), {"tokenizer.json": tokenizer})


def test_a_dry_run_says_which_editor_and_why(http: httpx.Client, model: Store) -> None:
    plan = planned(http)
    assert (plan["editor"], plan["preset"], plan["source"]) == ("jeep", "jeep-atlas-gptj", "preset")
    assert plan["editor_reason"].startswith("with 1 fact edited together jeep has Score 98.9 ")
    assert "docs/results.md" in plan["editor_reason"]
    several = [{**FACT, "subject": f"Lyon {i}"} for i in range(17)]
    assert planned(http, *several)["editor_reason"].startswith("with 64 facts edited together ")
    named = http.post("/edits?dry_run=true", json={"facts": [FACT]}).json()
    assert (named["editor"], named["editor_reason"]) == ("jeep", None)


def test_a_misspelt_auto_is_refused_with_what_there_is(http: httpx.Client, model: Store) -> None:
    answer = http.post("/edits?dry_run=true", json={"facts": [FACT], "editor": "Auto"})
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["pointer"] == "/editor"
    assert error["message"].startswith("no editor 'Auto'; did you mean 'auto'? there are: jeep, ")
    assert error["message"].endswith(", auto")
    trial = {"suite": "atlas-counterfact", "editor": "Auto", "n_edits": [1]}
    [error] = http.post("/evaluations", json=trial).json()["errors"]
    assert error["pointer"] == "/editor"
    assert ", auto" not in error["message"], "only an edit and its plan take it"


def test_the_reason_is_kept_with_edit_result_and_version(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    body = {"facts": [FACT], "editor": "auto"}
    headers = WAIT | {"Idempotency-Key": "one"}
    job = http.post("/edits", json=body, headers=headers).json()
    shown = http.get(f"/edits/{job['edit_id']}").json()
    assert shown["editor"] == "jeep"
    reason = shown["editor_reason"]
    assert reason.startswith("with 1 fact edited together ")
    assert shown["result"]["editor_reason"] == reason
    manifest: Manifest = worker.store.versions.read(shown["result"]["version"])
    assert manifest.editor == "jeep"
    assert manifest.result is not None
    assert manifest.result.editor_reason == reason
    again = http.post("/edits", json=body, headers=headers)  # head has moved, the body has not
    assert (again.status_code, again.json()["id"]) == (200, job["id"])
    listed = http.get("/edits").json()["data"]
    assert [one["editor"] for one in listed] == ["jeep"]


def test_facts_of_head_count_and_one_that_was_edited_twice_counts_once(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    for facts in ([FACT, {**FACT, "subject": "Nice"}], [{**FACT, "target_new": "Spain"}]):
        assert http.post("/edits", json={"facts": facts}, headers=WAIT).status_code == 200
    reason = planned(http)["editor_reason"]
    assert reason.startswith("with 16 facts edited together ")
    assert reason.endswith("it takes 2 earlier facts into account")
    assert http.post("/rollback/v0").status_code == 200
    assert "earlier" not in planned(http)["editor_reason"]


def test_what_lacks_second_moments_or_a_network_is_not_chosen(
    http: httpx.Client, model: Store
) -> None:
    served(model, moments="wikipedia")
    plan = planned(http)
    assert (plan["editor"], plan["moments"], plan["obstacles"]) == ("ft-wd", None, [])
    assert "jeep cannot be used: jeep needs second moments of layers 1, 2" in plan["editor_reason"]
    path = imported_path(model.base.moments_folder, "wikipedia", info().model_hash, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"moments")  # all that MEMIT's preset needs, not all that JEEP's does
    assert planned(http)["editor"] == "memit"
    served(model, model="/models/mine", presets={}, preset_values={}, moments="wikipedia")
    plan = planned(http)  # layers that a probe is to choose are not known yet
    assert (plan["editor"], plan["hparams"], plan["source"]) == ("jeep", "auto", "probe now")
    assert plan["editor_reason"].startswith("there are no figures of mine: ")


def test_a_model_too_small_for_the_default_editor_gets_the_next(
    http: httpx.Client, model: Store
) -> None:
    served(model, model="/models/mine", presets={}, preset_values={}, n_layers=2)
    plan = planned(http)
    assert plan["editor"] == "memit"
    assert "the high region must lie above" in plan["editor_reason"]
    assert planned(http, hparams="auto")["editor"] == "memit"


def test_a_chat_is_edited_by_what_edits_for_both_ways_of_asking(
    http: httpx.Client, model: Store
) -> None:
    publish(model, chat=True)
    plan = planned(http)
    assert plan["hparams"]["contexts"] == "both"
    assert plan["facts"][0]["chat_text"]


def test_other_shapes_of_the_same_name_have_no_figures(http: httpx.Client, model: Store) -> None:
    served(model, hidden_size=193)
    assert "there are no figures of atlas-gptj" in planned(http)["editor_reason"]


@pytest.mark.parametrize(
    ("more", "pointers"),
    [
        ({"preset": "jeep-atlas-gptj"}, ["/preset"]),
        ({"hparams": {"n_steps": 3}}, ["/hparams"]),
        ({"preset": "jeep-atlas-gptj", "hparams": "auto"}, ["/preset"]),
        ({"preset": "nope", "hparams": {"contexts": "chat"}}, ["/preset", "/hparams"]),
    ],
)
@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_what_belongs_to_one_editor_is_refused(
    refusing: httpx.Client, more: dict[str, Any], pointers: list[str], query: str
) -> None:
    answer = refusing.post(f"/edits{query}", json={"facts": [FACT], "editor": "auto", **more})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_hparams"), answer.text
    errors = answer.json()["errors"]
    assert [one["pointer"] for one in errors] == pointers
    assert all(one["code"] == "with_auto_editor" for one in errors)
    assert all('instead of "auto"' in one["message"] for one in errors)


def test_only_edits_take_it(refusing: httpx.Client) -> None:
    body = {"suite": "atlas-counterfact", "editor": "auto", "n_edits": [1]}
    answer = refusing.post("/evaluations", json=body)
    assert answer.status_code == 422
    assert 'only an edit and its plan take "auto"; name one of jeep, memit' in answer.text.replace(
        "\\", ""
    )


def test_it_is_documented_beside_the_names(http: httpx.Client, model: Store) -> None:
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["EditRequest"]["properties"]["editor"]["enum"] == [*EDITORS, "auto"]
    assert "auto" not in schemas["HypernetworkRequest"]["properties"]["editor"]["enum"]


def test_by_line_by_client_and_by_command(
    http: httpx.Client, url: str, worker: PlayedWorker, tmp_path: Path
) -> None:
    line = json.dumps(FACT).encode()
    kind = {"Content-Type": "application/x-ndjson"}
    found = http.post("/edits?editor=auto&dry_run=true", content=line, headers=kind).json()
    reason = found["editor_reason"]
    with Client(url) as client:
        assert client.plan([FACT], editor="auto").editor_reason == reason
        job = client.edit([FACT], editor="auto")
        assert client.wait(job.id).status == "succeeded"
        assert client.edit_result(str(job.resource_id)).editor_reason == reason
    file = tmp_path / "facts.jsonl"
    file.write_bytes(line)
    plan = jeep(url, "edit", str(file), "--editor", "auto", "--dry-run").stdout
    assert "jeep was chosen: with 16 facts edited together" in " ".join(plan.split())
    edited = jeep(url, "edit", str(file), "--editor", "auto").stdout
    assert "jeep was chosen: with 16 facts edited together" in " ".join(edited.split())
    assert "was chosen" not in jeep(url, "edit", str(file), "--dry-run").stdout
    wrong = jeep(url, "edit", str(file), "--editor", "auto", "--contexts", "plain")
    assert (wrong.returncode, "hyper-parameters belong to one editor" in wrong.stderr) == (1, True)
