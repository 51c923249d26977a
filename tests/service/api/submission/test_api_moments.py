"""Which edits need imported second moments: one rule for all that compute edits."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from support.service.bundled_model import info
from support.service.played_worker.worker import PlayedWorker

from jeep_core.moments.source import imported_path
from service.contracts.schemas import Manifest
from service.store import Store
from service.store.files import encode, replace

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
WAIT = {"Prefer": "wait=20"}


def lacking(store: Store) -> None:
    """The worker is to take imported moments, of which there are none yet."""
    tokenizer = store.base.published("tokenizer.json").read_bytes()
    made = info().model_copy(update={"moments": "wikipedia"})
    store.base.publish(made, {"tokenizer.json": tokenizer})


def give(store: Store, name: str, *layers: int) -> None:
    for layer in layers:
        path = imported_path(store.base.moments_folder, name, info().model_hash, layer)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"moments")


def edit(http: httpx.Client, editor: str, **more: object) -> httpx.Response:
    return http.post("/edits", json={"facts": [FACT], "editor": editor, **more})


def trial(http: httpx.Client, editor: str) -> httpx.Response:
    body = {"suite": "atlas-counterfact", "editor": editor, "n_edits": [1]}
    return http.post("/evaluations", json=body)


@pytest.mark.parametrize("ask", [edit, trial])
@pytest.mark.parametrize("editor", ["ft-wd", "mend", "malmen"])
def test_editors_without_second_moments_need_none_imported(
    http: httpx.Client, model: Store, ask, editor: str
) -> None:
    lacking(model)
    assert ask(http, editor).status_code == 202


@pytest.mark.parametrize("ask", [edit, trial])
@pytest.mark.parametrize("editor", ["jeep", "memit", "pmet", "rome", "alphaedit"])
def test_editors_with_second_moments_are_refused_until_they_are_imported(
    http: httpx.Client, model: Store, ask, editor: str
) -> None:
    lacking(model)
    answer = ask(http, editor)
    assert (answer.status_code, answer.json()["code"]) == (409, "no_moments")
    assert answer.json()["detail"].startswith(f"{editor} needs second moments")
    assert list(model.journal.all()) == []


@pytest.mark.parametrize("ask", [edit, trial])
@pytest.mark.parametrize("editor", ["jeep", "memit", "pmet", "rome", "alphaedit"])
def test_without_a_text_of_its_own_a_model_takes_the_one_that_ships(
    http: httpx.Client, model: Store, ask, editor: str
) -> None:
    tokenizer = model.base.published("tokenizer.json").read_bytes()
    made = info().model_copy(update={"moments_from": "default corpus"})
    model.base.publish(made, {"tokenizer.json": tokenizer})
    assert ask(http, editor).status_code == 202


@pytest.mark.parametrize("ask", [edit, trial])
def test_imported_moments_stand_in_for_a_text(http: httpx.Client, model: Store, ask) -> None:
    lacking(model)
    layers = info().preset_values["rome/rome-atlas-gptj"]["layer"]
    answer = ask(http, "rome")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_moments")
    assert f"layers {layers}" in answer.json()["detail"]
    assert "jeep moments import --name wikipedia" in answer.json()["detail"]
    give(model, "wikipedia", layers)
    assert ask(http, "rome").status_code == 202, "imported while the worker runs"


def test_only_layers_that_were_not_imported_are_named(http: httpx.Client, model: Store) -> None:
    lacking(model)
    give(model, "wikipedia", 2)
    answer = edit(http, "memit", hparams={"low": {"layers": [2, 3, 4]}})
    assert answer.json()["code"] == "no_moments"
    assert "layers 3, 4," in answer.json()["detail"]


def test_layers_of_automatic_hyper_parameters_are_left_to_the_job(
    http: httpx.Client, model: Store
) -> None:
    lacking(model)
    assert edit(http, "memit", hparams="auto").status_code == 202


def test_a_dry_run_shows_the_plan_and_what_is_missing(http: httpx.Client, model: Store) -> None:
    lacking(model)
    body = {"facts": [FACT], "editor": "jeep"}
    plan = http.post("/edits?dry_run=true", json=body)
    assert plan.status_code == 200
    assert [one["code"] for one in plan.json()["obstacles"]] == ["no_moments"]
    assert plan.json()["facts"][0]["subject"] == "Lyon"
    free = http.post("/edits?dry_run=true", json={**body, "editor": "ft-wd"})
    assert (free.json()["obstacles"], free.json()["moments"]) == ([], None)


@pytest.mark.parametrize(
    ("editor", "needed"), [("locft", False), ("ultraedit", False), ("jeep", True), ("memit", True)]
)
def test_a_dry_run_before_any_probe_names_moments_only_where_they_are_needed(
    http: httpx.Client, model: Store, editor: str, needed: bool
) -> None:
    body = {"facts": [FACT], "editor": editor, "hparams": "auto"}
    plan = http.post("/edits?dry_run=true", json=body).json()
    assert plan["hparams"] == "auto"
    assert (plan["moments"] is not None) is needed


def test_a_trial_without_its_network_is_refused_at_once(http: httpx.Client, model: Store) -> None:
    body = {"suite": "atlas-counterfact", "editor": "mend", "n_edits": [1]}
    refused = http.post("/evaluations", json={**body, "hparams": {"rank": 5}})
    assert (refused.status_code, refused.json()["code"]) == (409, "no_hypernetwork")
    assert "jeep networks train mend" in refused.json()["detail"]
    assert http.get("/jobs").json()["data"] == []
    assert http.post("/evaluations", json=body).status_code == 202, "shipped"


def test_a_dry_run_tells_that_no_network_fits(http: httpx.Client, model: Store) -> None:
    body = {"facts": [FACT], "editor": "mend", "hparams": {"rank": 5}}
    [obstacle] = http.post("/edits?dry_run=true", json=body).json()["obstacles"]
    assert obstacle["code"] == "no_hypernetwork"
    assert "jeep networks train mend" in obstacle["message"]


def test_a_revert_that_could_not_apply_a_later_batch_is_refused(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    """The worker was started with imported moments since the batches were applied."""
    first = edited(http)
    later = edited(http)
    record(worker.store, "v2", editor="memit")
    lacking(worker.store)
    refused = http.post(f"/edits/{first}/revert", json={})
    assert (refused.status_code, refused.json()["code"]) == (409, "no_moments")
    assert refused.json()["detail"].startswith(f"memit ({later}) needs second moments")
    assert http.post(f"/edits/{later}/revert", json={}, headers=WAIT).status_code == 200


def test_a_revert_needs_nothing_for_editors_without_moments(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    first = edited(http)
    edited(http)
    record(worker.store, "v2", editor="ft-wd")
    lacking(worker.store)
    assert http.post(f"/edits/{first}/revert", json={}, headers=WAIT).status_code == 200


def edited(http: httpx.Client) -> str:
    answer = http.post("/edits", json={"facts": [FACT]}, headers=WAIT)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["edit_id"])


def record(store: Store, version: str, editor: str) -> None:
    """Have a version's manifest say what it was edited with."""
    preset = info().presets[editor][0]
    hparams = info().preset_values[f"{editor}/{preset}"]
    manifest = store.versions.read(version).model_copy(
        update={"editor": editor, "hparams": hparams}
    )
    rewrite(store, manifest)


def rewrite(store: Store, manifest: Manifest) -> None:
    path = Path(store.root) / "versions" / manifest.id / "manifest.json"
    replace(path, encode(manifest))
