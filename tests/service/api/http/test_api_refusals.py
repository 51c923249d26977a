"""Refusals that tell a new user what to do: editors without presets, wrong names, limits."""

from __future__ import annotations

import httpx
import pytest
from support.service.bundled_model import info

from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}


@pytest.fixture
def own(model: Store) -> Store:
    """The worker serves a user's own model, for which there are no presets."""
    tokenizer = model.base.published("tokenizer.json").read_bytes()
    made = info().model_copy(update={"model": "/models/mine", "presets": {}, "preset_values": {}})
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


@pytest.mark.parametrize("hparams", [{}, {"n_steps": 3}])
def test_an_edit_of_a_model_without_a_preset_is_told_its_options(
    http: httpx.Client, own: Store, hparams: dict[str, object]
) -> None:
    error = refused(http, hparams=hparams)
    assert (error["pointer"], error["code"]) == ("/hparams", "no_preset")
    for part in ('"hparams": "auto"', "low and high", "jeep tune --editor jeep", "JEEP_PRESETS"):
        assert part in error["message"]
    assert http.post("/edits", json={"facts": [FACT], "hparams": "auto"}).status_code == 202


@pytest.mark.parametrize(
    ("editor", "named", "without"),
    [
        ("memit", '"hparams": "auto"', "high"),
        ("rome", "(layer cannot be left out)", '"auto"'),
        ("ft-wd", "jeep tune --editor ft-wd", '"auto"'),
        ("mend", "(layers cannot be left out)", "jeep tune"),
    ],
)
def test_a_refused_editor_is_told_what_is_supported(
    http: httpx.Client, own: Store, editor: str, named: str, without: str
) -> None:
    message = refused(http, editor=editor)["message"]
    assert named in message
    assert without not in message


def test_a_refused_trial_names_only_options_it_can_take(http: httpx.Client, own: Store) -> None:
    error = refused(http, "/evaluations", editor="jeep", n_edits=[1])
    assert error["code"] == "no_preset"
    assert '"auto"' not in error["message"]
    assert "jeep probe" in error["message"]
    error = refused(http, "/evaluations", editor="jeep", n_edits=[1], hparams="auto")
    assert error["pointer"] == "/hparams"
    assert "POST /probes" in error["message"]


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
        ({"editor": "rome", "hparams": "auto"}, "/hparams", "for jeep, memit, pmet"),
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
