"""``exact`` in requests for edits: what is queued, planned and refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from support.service.bundled_model import info

from jeep_core.editing import resolve_hparams
from service.contracts.schemas import EditPayload
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
EXACT = {"exact": True}


def send(http: httpx.Client, query: str = "", **more: Any) -> httpx.Response:
    return http.post(f"/edits{query}", json={"facts": [FACT], **more})


def payload(model: Store, answer: httpx.Response) -> EditPayload:
    assert answer.status_code == 202, answer.text
    job = model.journal.read(answer.json()["id"])
    return EditPayload.model_validate(job.payload)


def errors(answer: httpx.Response) -> list[tuple[str, str]]:
    assert answer.status_code == 422, answer.text
    return [(one["pointer"], one["code"]) for one in answer.json()["errors"]]


def without_preset(model: Store) -> None:
    """The worker has a model for which nothing ships."""
    tokenizer = model.base.published("tokenizer.json").read_bytes()
    made = info().model_copy(update={"presets": {}, "preset_values": {}})
    model.base.publish(made, {"tokenizer.json": tokenizer})


def test_what_is_queued_has_complete_hyper_parameters(http: httpx.Client, model: Store) -> None:
    found = payload(model, send(http, hparams=EXACT))
    paper = resolve_hparams("atlas-gptj", "jeep", "jeep-atlas-gptj-paper", EXACT, 9)
    assert (found.preset, found.hparams) == ("jeep-atlas-gptj-paper", paper.model_dump(mode="json"))


def test_a_dry_run_shows_it(http: httpx.Client, model: Store) -> None:
    quick, exact = (send(http, "?dry_run=true", hparams=given).json() for given in ({}, EXACT))
    assert (quick["exact"], quick["hparams"]["exact"]) == (False, False)
    assert (exact["exact"], exact["hparams"]["optimizer"]) == (True, "adam")
    assert exact["preset"] == "jeep-atlas-gptj-paper"


def test_a_model_without_presets_is_probed_and_edited_so(http: httpx.Client, model: Store) -> None:
    without_preset(model)
    plan = send(http, "?dry_run=true", hparams=EXACT).json()
    assert (plan["hparams"], plan["exact"]) == ("auto", True)
    found = payload(model, send(http, hparams=EXACT))
    assert (found.hparams, found.changes) == ("auto", EXACT)
    contradicting = send(http, hparams=EXACT | {"optimizer": "newton"})
    assert errors(contradicting) == [("/hparams/optimizer", "not_exact")]


@pytest.mark.parametrize(
    ("editor", "changes", "expected"),
    [
        ("jeep", {"optimizer": "newton"}, ("/hparams/optimizer", "not_exact")),
        ("memit", {"early_prefixes": 2}, ("/hparams/early_prefixes", "not_exact")),
        ("rome", {"n_prefixes": 6}, ("/hparams/n_prefixes", "not_exact")),
        ("ultraedit", {}, ("/hparams/exact", "no_value_search")),
        ("ft-wd", {}, ("/hparams/exact", "no_value_search")),
    ],
)
def test_what_it_cannot_be_beside_is_refused(
    http: httpx.Client, model: Store, editor: str, changes: dict[str, Any], expected: Any
) -> None:
    assert errors(send(http, editor=editor, hparams=EXACT | changes)) == [expected]


def test_beside_the_editor_it_is_told_where_it_belongs(http: httpx.Client, model: Store) -> None:
    answer = send(http, exact=True)
    assert errors(answer) == [("/exact", "misplaced")]
    assert '"hparams": {"exact": true}' in answer.json()["errors"][0]["message"]


def test_it_is_described(http: httpx.Client) -> None:
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    described = [name for name, one in schemas.items() if "exact" in one.get("properties", {})]
    assert {"EditPlan", "JeepHParams", "MemitHParams"} <= set(described)
