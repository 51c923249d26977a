"""Refusals that tell a new user what to do: editors without presets, wrong names, limits."""

from __future__ import annotations

import httpx
import pytest
from support.service.bundled_model import info

from jeep_core.probe.defaults.kept import keep
from jeep_core.probe.defaults.rule import RULE
from service.store import Store

LOW = {"layers": [1, 2], "clamp": 1.5, "moment_weight": 20.0}
FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}


@pytest.fixture
def own(model: Store) -> Store:
    """The worker serves a user's own model, for which there are no presets."""
    tokenizer = model.base.published("tokenizer.json").read_bytes()
    update = {"model": "/models/mine", "presets": {}, "preset_values": {}}
    made = info().model_copy(update=update | {"moments_from": "default corpus"})
    model.base.publish(made, {"tokenizer.json": tokenizer})
    return model


def refused(http: httpx.Client, path: str = "/edits", **body: object) -> dict[str, str]:
    """The first field error of a request that is refused with 422."""
    given = {"facts": [FACT]} if path.startswith("/edits") else {"suite": "atlas-counterfact"}
    answer = http.post(path, json={**given, **body})
    assert answer.status_code == 422, answer.text
    found: dict[str, str] = answer.json()["errors"][0]
    assert found["message"] in answer.json()["detail"]
    return found


def sent(store: Store, answer: httpx.Response) -> dict[str, object]:
    """The payload of the job that a request was accepted with."""
    assert answer.status_code == 202, answer.text
    return store.journal.read(answer.json()["id"]).payload


EDITORS = ("jeep", "memit", "pmet", "rome", "alphaedit", "ft-wd")


@pytest.mark.parametrize("editor", EDITORS)
@pytest.mark.parametrize("hparams", [None, {"n_steps": 3}, "auto"])
def test_without_a_preset_hyper_parameters_are_left_to_the_worker(
    http: httpx.Client, own: Store, editor: str, hparams: object
) -> None:
    given = {} if hparams is None else {"hparams": hparams}
    body = {"facts": [FACT], "editor": editor, **given}
    found = sent(own, http.post("/edits", json=body))
    expected = hparams if isinstance(hparams, dict) else {}
    assert (found["hparams"], found["preset"], found["changes"]) == ("auto", None, expected)
    trial = {"suite": "atlas-counterfact", "editor": editor, "n_edits": [1], **given}
    found = sent(own, http.post("/evaluations", json=trial))
    assert (found["hparams"], found["preset"], found["changes"]) == ("auto", None, expected)


def test_a_region_given_in_part_is_laid_over_what_is_chosen(http: httpx.Client, own: Store) -> None:
    body = {"facts": [FACT], "hparams": {"low": {"clamp": 2}}}
    assert sent(own, http.post("/edits", json=body))["changes"] == {"low": {"clamp": 2}}


@pytest.mark.parametrize(
    ("changes", "pointer", "said"),
    [
        ({"n_step": 3}, "/hparams/n_step", "did you mean 'n_steps'?"),
        ({"n_steps": 0}, "/hparams/n_steps", "at least 1"),
        ({"low": {"layers": [9]}}, "/hparams/low/layers", "layers 0 to 8"),
    ],
)
def test_wrong_changes_are_refused_before_the_worker_chooses(
    http: httpx.Client, own: Store, changes: dict[str, object], pointer: str, said: str
) -> None:
    for path, more in (("/edits", {}), ("/evaluations", {"editor": "memit", "n_edits": [1]})):
        error = refused(http, path, hparams=changes, **({"editor": "memit"} | more))
        assert error["pointer"] == pointer
        assert said in error["message"]


@pytest.mark.parametrize("editor", ["mend", "malmen"])
def test_an_editor_that_nothing_chooses_for_says_what_it_needs(
    http: httpx.Client, own: Store, editor: str
) -> None:
    error = refused(http, editor=editor)
    assert error["code"] == "no_preset"
    assert "(layers cannot be left out)" in error["message"]
    assert "auto" not in error["message"]
    assert "jeep tune" not in error["message"]


def test_a_model_too_small_for_two_regions_is_refused_at_once(
    http: httpx.Client, own: Store
) -> None:
    tokenizer = own.base.published("tokenizer.json").read_bytes()
    made = own.base.info()
    assert made is not None
    own.base.publish(made.model_copy(update={"n_layers": 2}), {"tokenizer.json": tokenizer})
    assert "the high region must lie above" in refused(http)["message"]
    assert http.post("/edits", json={"facts": [FACT], "editor": "memit"}).status_code == 202


def test_a_dry_run_says_where_hyper_parameters_would_come_from(
    http: httpx.Client, own: Store
) -> None:
    def plan(**more: object) -> dict[str, object]:
        answer = http.post("/edits?dry_run=true", json={"facts": [FACT], **more})
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found

    none = plan()
    assert (none["source"], none["hparams"], none["rule"]) == ("probe now", "auto", RULE)
    assert (none["moments"], none["obstacles"]) == ("default corpus", [])
    given = plan(editor="ft-wd", hparams={"layer": 3})
    assert (given["source"], given["moments"], given["rule"]) == ("given", None, None)
    proposal = {"learning_rate": 0.4, "low": LOW, "high": LOW | {"layers": [6]}}
    record = {"model_hash": info().model_hash, "rule": RULE, "hparams": proposal}
    keep(own.base.probes_folder, {**record, "rule": RULE - 1})
    assert plan() == none, "it lacks what this version goes by, so the model is probed again"
    keep(own.base.probes_folder, record)
    chosen = plan(hparams={"n_steps": 7})
    assert chosen["source"] == "kept probe"
    assert chosen["hparams"]["low"]["layers"] == [1, 2]
    assert (chosen["hparams"]["n_steps"], chosen["hparams"]["learning_rate"]) == (7, 0.4)
    keep(own.base.probes_folder, {**record, "hparams": None, "why_no_proposal": "too few facts"})
    chosen = plan()
    assert (chosen["source"], chosen["hparams"]["low"]["layers"]) == ("depths", [2, 3])
    assert "too few facts" in chosen["warnings"][0]


def test_a_preset_comes_before_a_kept_probe(http: httpx.Client, model: Store) -> None:
    proposal = {"learning_rate": 0.4, "low": LOW, "high": LOW | {"layers": [6]}}
    keep(
        model.base.probes_folder,
        {"model_hash": info().model_hash, "rule": RULE, "hparams": proposal},
    )
    plan = http.post("/edits?dry_run=true", json={"facts": [FACT]}).json()
    assert (plan["source"], plan["preset"]) == ("preset", "jeep-atlas-gptj")
    assert plan["moments"] == "bundled corpus"
    body = {"facts": [FACT], "hparams": "auto"}
    assert http.post("/edits?dry_run=true", json=body).json()["source"] == "kept probe"


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        ({"editor": "jepp"}, "/editor", "did you mean 'jeep'? there are: jeep, memit,"),
        ({"editor": "x"}, "/editor", "no editor 'x'; there are: jeep, memit,"),
        (
            {"preset": "jeep-atlas-gpt"},
            "/preset",
            "did you mean 'jeep-atlas-gptj'? there are: jeep-atlas-gptj, jeep-atlas-gptj-paper",
        ),
        ({"editr": "jeep"}, "/editr", "did you mean 'editor'? there are: facts, editor,"),
        (
            {"facts": [{**FACT, "target": "x"}]},
            "/facts/0/target",
            "did you mean 'target_new'? there are: subject,",
        ),
        ({"guards": {"min_eficacy": 1}}, "/guards/min_eficacy", "did you mean 'min_efficacy'?"),
        ({"hparams": {"n_step": 3}}, "/hparams/n_step", "did you mean 'n_steps'?"),
        ({"hparams": {"low": {"layer": [1]}}}, "/hparams/low/layer", "did you mean 'layers'?"),
        ({"hparams": {"n_steps": 0}}, "/hparams/n_steps", "at least 1"),
        ({"editor": "rome", "hparams": {"layer": 99}}, "/hparams/layer", "layers 0 to 8"),
        ({"editor": "mend", "hparams": "auto"}, "/hparams", "for jeep, memit, pmet"),
        ({"snapshot_name": "head"}, "/snapshot_name", "choose another name"),
        (
            {"facts": [{"subject": "Lyon", "relation": "city_contry", "object": "Italy"}]},
            "/facts/0/relation",
            "did you mean 'city_country'?",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_names_and_values_are_explained(
    refusing: httpx.Client, body: dict[str, object], pointer: str, said: str
) -> None:
    error = refused(refusing, **body)
    assert error["pointer"] == pointer
    assert said in error["message"]
    assert not error["message"].startswith("Value error")


def test_a_limit_names_its_setting(refusing: httpx.Client) -> None:
    answer = refusing.post("/edits", json={"facts": [{**FACT, "subject": "x" * 20_000}]})
    assert answer.status_code == 413
    assert "(JEEP_MAX_TEXT_CHARS)" in answer.json()["detail"]
    answer = refusing.post("/generate", json={"prompt": "x", "max_new_tokens": 10_000})
    assert "(JEEP_MAX_NEW_TOKENS)" in answer.json()["detail"]


@pytest.mark.parametrize("facts", ["Lyon", 5, None, {"subject": "Lyon"}, []])
def test_facts_of_another_shape_are_shown_both_forms(http: httpx.Client, facts: object) -> None:
    message = refused(http, facts=facts)["message"]
    assert '{"facts": [{' in message
    assert '"relation"' in message


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/generate", {"prompts": "x"}, "/prompts: must be a list"),
        ("/generate", {"prompt": 5}, "/prompt: must be a text"),
        ("/generate", {"prompt": "x", "temperature": -1}, "/temperature: must be at least 0"),
        ("/evaluations", {}, "/suite: is missing"),
        ("/evaluations", "x", "must be an object"),
        ("/probes", {"facts": []}, "/facts: has 0 entries, at least 8 are needed"),
        ("/edits?format=auto&limit=0", {}, "limit: must be at least 1"),
        ("/edits", {"facts": [FACT], "activate": "maybe"}, "/activate: must be true or false"),
    ],
)
def test_wrong_values_are_refused_in_plain_words(
    refusing: httpx.Client, path: str, body: object, message: str
) -> None:
    answer = refusing.post(path, json=body)
    assert (answer.status_code, answer.json()["detail"]) == (422, message)


def test_a_file_of_another_type_is_told_the_parameter(refusing: httpx.Client) -> None:
    sent = {"content": b"subject,relation,object\n", "headers": {"Content-Type": "text/csv"}}
    answer = refusing.post("/edits", **sent)
    assert answer.status_code == 415
    assert "?format=auto" in answer.json()["detail"]


def test_a_dry_run_is_refused_like_the_edit(http: httpx.Client, model: Store) -> None:
    dry = "/edits?dry_run=true"
    error = refused(http, dry, parent="v99")
    assert (error["pointer"], error["code"]) == ("/parent", "unknown_version")
    assert http.post("/snapshots", json={"name": "one"}).status_code == 201
    body = {"facts": [FACT], "snapshot_name": "one"}
    assert [one["code"] for one in http.post(dry, json=body).json()["obstacles"]] == ["name_taken"]
    assert http.post("/edits", json=body).json()["code"] == "name_taken"


def test_a_few_wrong_fields_are_all_named_and_many_are_counted(
    http: httpx.Client, own: Store
) -> None:
    few = http.post("/evaluations", json={"limit": 0}).json()
    assert [one["pointer"] for one in few["errors"]] == ["/suite", "/limit"]
    assert all(f"{one['pointer']}: {one['message']}" in few["detail"] for one in few["errors"])
    facts = [{**FACT, "subject": ""}] * 4
    many = http.post("/edits", json={"facts": facts}).json()
    assert len(many["errors"]) == 4
    assert many["detail"].endswith(" (and 3 more)")
    assert "/facts/1" not in many["detail"]
