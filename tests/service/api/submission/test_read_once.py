"""What a request says is read and checked once, from the body to the journal."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import httpx
import pytest
from support.service.bundled_model import info
from support.service.played_worker.worker import PlayedWorker

from jeep_core.editors import hparams_class
from jeep_core.spec import facts as facts_module
from jeep_core.spec import positions as positions_module
from jeep_core.spec.facts import Fact
from service.api.submission.edits import from_lines
from service.api.submission.uploads import Reading, from_value
from service.contracts.schemas import EditPayload, FactIn
from service.store import Store
from service.store.files import encode, replace

SUBJECTS = ("Lyon", "Nice", "Caen")
PLAIN = [
    {"subject": name, "prompt": "{} is a city in the country of", "target_new": "Japan"}
    for name in SUBJECTS
]
REWRITES = [
    {
        "requested_rewrite": {
            **fact,
            "target_new": {"str": "Japan"},
            "target_true": {"str": "France"},
        }
    }
    for fact in PLAIN
]
LONG = "x " * 400


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls of what reads facts, tokens and hyper-parameters, by name."""
    found: Counter[str] = Counter()

    def counted(owner: Any, name: str, label: str) -> None:
        function = getattr(owner, name)

        def counting(*args: Any, **more: Any) -> Any:
            found[label] += 1
            return function(*args, **more)

        monkeypatch.setattr(owner, name, counting)

    counted(facts_module, "_parse_fact", "facts")
    counted(positions_module, "tokenize_fact", "tokens")
    for editor in ("jeep", "memit", "mend"):
        counted(hparams_class(editor), "model_validate", "hparams")
    return found


def queued(store: Store, answer: httpx.Response) -> EditPayload:
    assert answer.status_code == 202, answer.text
    return EditPayload.model_validate(store.journal.read(answer.json()["id"]).payload)


@pytest.mark.parametrize("editor", ["jeep", "memit", "mend"])
def test_an_edit_is_read_and_checked_once(
    editor: str, http: httpx.Client, model: Store, calls: Counter[str]
) -> None:
    """Also by the checks for second moments and for a trained network."""
    answer = http.post("/edits", json={"facts": PLAIN, "editor": editor})
    assert calls == {"hparams": 1, "facts": len(PLAIN), "tokens": len(PLAIN)}
    payload = queued(model, answer)
    assert payload.hparams == hparams_class(editor)(**payload.hparams).model_dump(mode="json")
    assert [fact.subject for fact in payload.facts] == list(SUBJECTS)


def test_a_dry_run_reads_and_checks_once(
    http: httpx.Client, model: Store, calls: Counter[str]
) -> None:
    answer = http.post("/edits", json={"facts": PLAIN}, params={"dry_run": True})
    assert answer.status_code == 200, answer.text
    assert calls == {"hparams": 1, "facts": len(PLAIN), "tokens": len(PLAIN)}
    assert answer.json()["hparams"]["low"]


def test_facts_of_records_are_not_parsed_again(
    http: httpx.Client, model: Store, calls: Counter[str]
) -> None:
    answer = http.post("/edits", json=REWRITES)
    assert calls == {"hparams": 1, "tokens": len(REWRITES)}
    assert [fact.target_true for fact in queued(model, answer).facts] == ["France"] * 3


def test_what_is_left_is_not_read_again_when_records_are_dropped(
    http: httpx.Client, model: Store, calls: Counter[str]
) -> None:
    long = {**REWRITES[1]["requested_rewrite"], "prompt": LONG + "{} lies in"}
    records = [REWRITES[0], {"requested_rewrite": long}, REWRITES[2]]
    answer = http.post("/edits", json=records)
    assert calls == {"hparams": 1, "tokens": len(records)}
    payload = queued(model, answer)
    assert [fact.subject for fact in payload.facts] == ["Lyon", "Caen"]
    assert payload.imported is not None
    assert payload.imported.dropped == {"too_long": 1}


def test_a_trial_checks_hyper_parameters_once(
    http: httpx.Client, model: Store, calls: Counter[str]
) -> None:
    body = {"suite": "atlas-counterfact", "editor": "memit", "n_edits": [1]}
    assert http.post("/evaluations", json=body).status_code == 202
    assert calls == {"hparams": 1}


def test_a_training_checks_hyper_parameters_once(
    http: httpx.Client, model: Store, calls: Counter[str]
) -> None:
    assert http.post("/hypernetworks", json={"editor": "mend"}).status_code == 202
    assert calls == {"hparams": 1}


def test_a_revert_checks_each_later_batch_once(
    http: httpx.Client, model: Store, worker: PlayedWorker, calls: Counter[str]
) -> None:
    """Where the batches have hyper-parameters, which the scripted worker does not record."""
    wait = {"Prefer": "wait=20"}
    made = [http.post("/edits", json={"facts": [fact]}, headers=wait).json() for fact in PLAIN]
    for job in made:
        manifest = model.versions.read(job["result"]["version"])
        recorded = {"editor": "memit", "hparams": info().preset_values["memit/memit-atlas-gptj"]}
        content = encode(manifest.model_copy(update=recorded))
        replace(model.root / "versions" / manifest.id / "manifest.json", content)
    calls.clear()
    assert http.post(f"/edits/{made[0]['edit_id']}/revert").status_code == 202
    assert calls == {"hparams": len(made) - 1}


def test_facts_of_records_stay_facts() -> None:
    submission = from_value(REWRITES, {}, Reading(), 10)
    assert all(type(fact) is Fact for fact in submission.facts)
    assert [fact.subject for fact in submission.facts] == list(SUBJECTS)


def test_a_key_stands_for_the_same_request_as_before() -> None:
    """Requests are compared in one form, in which stores keep their hash."""
    submission = from_value(REWRITES, {"editor": "memit"}, Reading(), 10)
    sent = [
        FactIn.model_validate({k: v for k, v in asdict(fact).items() if v is not None})  # type: ignore[call-overload]
        for fact in submission.facts
    ]
    lines = "\n".join(fact.model_dump_json() for fact in sent)
    by_line = from_lines(lines.encode(), {"editor": "memit"}, 10)
    said = [json.dumps(one.said, sort_keys=True) for one in (submission, by_line)]
    assert said[0] == said[1]
    assert said[0].startswith('{"activate": true, "editor": "memit", "facts": [{"join": "auto"')


def test_fields_that_came_later_change_only_requests_that_have_them() -> None:
    def options(**given: object) -> list[str]:
        said = from_value({"facts": REWRITES, **given}, {}, Reading(), 10).said
        return [*said, *(said["guards"] or {})]

    later = {"check_earlier", "repair", "max_drift", "min_ability"}
    assert not later & set(options(guards={"min_efficacy": 1}))
    assert {"max_perplexity_ratio", "guards"} <= set(options(guards={"min_efficacy": 1}))
    assert later <= set(
        options(check_earlier="all", repair=True, guards={"max_drift": 1, "min_ability": 1})
    )


def test_an_answer_that_only_its_blank_sets_apart_changes_nothing(
    http: httpx.Client, model: Store
) -> None:
    """Formats compare answers as they are written, a fact as they follow its prompt."""
    same = {**REWRITES[0]["requested_rewrite"], "target_true": {"str": " Japan"}}
    answer = http.post("/edits", json=[{"requested_rewrite": same}])
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_facts")
    [error] = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/0", "same_as_target")
    assert error["message"] == "target_true equals the new target"
    kept = queued(model, http.post("/edits", json=[{"requested_rewrite": same}, REWRITES[1]]))
    assert [fact.subject for fact in kept.facts] == ["Nice"]
    assert kept.imported is not None
    assert kept.imported.dropped == {"same_as_target": 1}
