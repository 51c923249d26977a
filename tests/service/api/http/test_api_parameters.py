"""Query parameters that a route does not take: refused by name, whatever the route."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service.played_worker.worker import PlayedWorker

from service.api import create_app
from service.api.http.access import LENIENT, NAME_LENGTH, NAMED, PUBLIC, Guarded, guarded_routes
from service.client import Client, InvalidArgument
from service.settings import Settings
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
RECORD = {**FACT, "ground_truth": "France", "rephrase_prompt": "a", "locality_prompt": "b"}


def strict(settings: Settings) -> list[Guarded]:
    routes = guarded_routes(create_app(settings).routes)
    return [one for one in routes if one.need is not PUBLIC and not one.path.startswith(LENIENT)]


def test_probes_and_scrapers_may_send_parameters_of_their_own(http: httpx.Client) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert http.get(f"{path}?verbose=1").status_code == http.get(path).status_code != 422, path


def test_an_answer_names_some_unknown_parameters_and_not_all_of_a_thousand(
    http: httpx.Client,
) -> None:
    names = "&".join(f"{'x' * 60}{n}" for n in range(1000))
    errors = http.get(f"/facts?{names}").json()["errors"]
    assert 0 < len(errors) <= NAMED
    assert {len(one["parameter"]) for one in errors} == {NAME_LENGTH}


def test_every_route_of_the_api_refuses_a_parameter_that_it_does_not_take(
    http: httpx.Client, settings: Settings
) -> None:
    asked = 0
    for route in strict(settings):
        assert route.parameters is not None, route.path
        for method in route.methods - {"HEAD"}:
            path = re.sub(r"\{\w+(:\w+)?\}", "x", route.path)
            answer = http.request(method, f"{path}?no_such_one=1")
            assert answer.status_code == 422, f"{method} {path}"
            [error] = answer.json()["errors"]
            assert (error["parameter"], error["code"]) == ("no_such_one", "unknown_parameter")
            assert error["message"].endswith(f"there are: {', '.join(route.parameters) or 'none'}")
            asked += 1
    assert asked > 50


def test_every_route_refuses_a_parameter_that_is_given_twice_and_is_no_list(
    http: httpx.Client, settings: Settings
) -> None:
    refused, lists = 0, []
    for route in strict(settings):
        for name in route.parameters or ():
            method = min(route.methods - {"HEAD"})
            path = re.sub(r"\{\w+(:\w+)?\}", "x", route.path)
            answer = http.request(method, f"{path}?{name}=1&{name}=1")
            if name in route.lists:
                lists.append((path, name))
                continue
            assert answer.status_code == 422, f"{method} {path} {name}"
            [error] = answer.json()["errors"]
            assert (error["parameter"], error["code"]) == (name, "repeated"), path
            assert error["message"] == "is given 2 times: give it once"
            refused += 1
    assert refused > 40
    assert lists == [("/jobs", "status")]
    assert http.get("/jobs?status=failed&status=queued").status_code == 200


def test_what_is_taken_is_what_is_described(http: httpx.Client, settings: Settings) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    compared = 0
    for route in strict(settings):
        for method in route.methods:
            operation = paths.get(route.described_as, {}).get(method.lower())
            if operation is not None:
                queries = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"]
                assert sorted(route.parameters or ()) == sorted(queries), route.path
                assert "422" in operation["responses"], route.path
                compared += 1
    assert compared > 40


@pytest.mark.parametrize(
    ("method", "path", "name", "meant"),
    [
        ("POST", "/edits?dryrun=true", "dryrun", "dry_run"),
        ("POST", "/edits?format=auto&gaurds=%7B%7D", "gaurds", "guards"),
        ("GET", "/facts?subjekt=Peru", "subjekt", "subject"),
        ("GET", "/jobs?statuss=failed", "statuss", "status"),
        ("GET", "/snapshots?limt=1", "limt", "limit"),
        ("GET", "/edits?LIMIT=1", "LIMIT", "limit"),
    ],
)
def test_the_nearest_parameter_is_named_and_nothing_happens(
    http: httpx.Client, model: Store, method: str, path: str, name: str, meant: str
) -> None:
    answer = http.request(method, path, json={"facts": [FACT]} if method == "POST" else None)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_request")
    assert problem["errors"][0]["parameter"] == name
    assert f"did you mean {meant!r}?" in problem["detail"]
    assert http.get("/edits").json()["data"] == []


def test_other_interfaces_ignore_what_they_do_not_know(http: httpx.Client, model: Store) -> None:
    assert http.get("/v1/models?api-version=1").status_code == 200
    assert http.get("/console/facts?utm_source=x").status_code == 200
    wrong = http.delete("/facts?subjekt=x")
    assert wrong.status_code == 405, "the method is what is wrong first"


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        ({"facts": [FACT], "dry_run": True}, "/dry_run", "?dry_run="),
        ({"facts": [FACT], "format": "auto"}, "/format", "?format="),
        ({"facts": [RECORD], "dry_run": True}, "/dry_run", "?dry_run="),
        ({**RECORD, "dry_run": True}, "/dry_run", "?dry_run="),
        ({"data": [RECORD], "drop_bad": True}, "/drop_bad", "?drop_bad="),
        ({"facts": [RECORD], "gaurds": {}}, "/gaurds", "did you mean 'guards'?"),
    ],
)
def test_a_parameter_in_the_body_is_told_where_it_belongs(
    http: httpx.Client, model: Store, body: dict[str, Any], pointer: str, said: str
) -> None:
    answer = http.post("/edits", json=body)
    assert answer.status_code == 422, answer.text
    [error] = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert said in error["message"]
    assert http.get("/edits").json()["data"] == []


class TestFiles:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "facts.json"
        path.write_text(json.dumps([FACT]))
        return path

    def test_an_unknown_option_is_refused_before_anything_is_sent(
        self, client: Client, model: Store, file: Path
    ) -> None:
        with pytest.raises(InvalidArgument, match=r"gaurds: .* did you mean 'guards'\?"):
            client.edit_file(file, gaurds={"min_efficacy": 1}, snapshotname="x")
        with pytest.raises(InvalidArgument, match="hyper-parameter: give hparams="):
            client.edit_file(file, exact=True)
        with pytest.raises(InvalidArgument, match=r"call plan_file\(\)"):
            client.edit_file(file, dry_run=True)
        with pytest.raises(InvalidArgument, match="guards: JSON has no such value"):
            client.edit_file(file, guards={"min_efficacy": float("nan")})
        assert list(client.edits()) == []

    def test_a_file_is_planned_as_it_would_be_edited(
        self, client: Client, worker: PlayedWorker, file: Path
    ) -> None:
        plan = client.plan_file(file, limit=1, editor="memit", guards=None, activate=None)
        assert plan.editor == "memit"
        assert [one.subject for one in plan.facts] == ["Lyon"]
        assert list(client.edits()) == []
        with pytest.raises(InvalidArgument, match="dry run: leave it out"):
            client.plan_file(file, dry_run=True)

    def test_a_plan_is_told_that_it_is_the_dry_run(self, client: Client, model: Store) -> None:
        with pytest.raises(InvalidArgument, match=r"a query parameter .*plan\(\) is the dry run"):
            client.plan([FACT], dry_run=True)
        with pytest.raises(InvalidArgument, match=r"a query parameter .*call plan\(\)"):
            client.edit([FACT], dry_run=True)
