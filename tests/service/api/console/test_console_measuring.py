"""Evaluations and probes: starting them, their figures, comparisons, cases, curves."""

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support import ROOT
from support.service.console import browser, change_headers, read_as_text, sign_in
from support.service.finished_jobs import (
    PERPLEXITY,
    SCORE,
    finished_evaluation,
    finished_probe,
    interval,
)

from service.api.console.forms import Form
from service.api.console.pages.measuring import evaluations
from service.api.console.pages.measuring.evaluations import evaluation_of
from service.api.console.pages.measuring.probes import plots_of, probe_of
from service.contracts.jobs import JobError, JobStatus, now
from service.contracts.schemas import CaseChange, EvaluationComparison
from service.contracts.schemas.access import Scope
from service.contracts.schemas.evaluation import (
    EvaluationPoint,
    EvaluationResult,
    JudgeRecord,
    MetricInterval,
    Target,
)
from service.store import Store

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}"
SUITE = "atlas-counterfact"


@pytest.fixture
def person(url: str) -> Iterator[httpx.Client]:
    """A browser at a console without keys."""
    with browser(url) as made:
        yield made


def scripts(person: httpx.Client) -> dict[str, str]:
    """The headers that a script of the page sends."""
    token = change_headers(person.get("/console/evaluations"))
    return {n: v for n, v in token.items() if n != "HX-Request"} | {"Accept": "application/json"}


def form(**fields: str) -> Form:
    return Form(list(fields.items()))


# ---------------------------------------------------------------- starting


def test_the_form_of_an_evaluation_says_what_is_measured() -> None:
    given = Form([
        ("suite", SUITE), ("kind", "versions"), ("version", "base"), ("version", "head"),
        ("others", "v3, head  v7"), ("limit", "20"), ("seed", ""), ("free", "yes"),
        ("free_tokens", "9"), ("editor", "jeep"), ("n_edits", "1"),
    ])  # fmt: skip
    assert evaluation_of(given) == {
        "suite": SUITE, "ask": "plain", "versions": ["base", "head", "v3", "v7"], "limit": 20,
        "free": {"max_new_tokens": 9},
    }  # fmt: skip
    for given, free in (
        ({"judge": "yes"}, {"judge": {}}),
        ({"judge_model": " m ", "free_tokens": "9"},
         {"judge": {"model": "m"}, "max_new_tokens": 9}),
        ({"judge_address": "http://j/v1", "judge_timeout_s": "x"},
         {"judge": {"address": "http://j/v1", "timeout_s": "x"}}),
    ):  # fmt: skip
        assert evaluation_of(form(suite=SUITE, **given))["free"] == free
    trial = evaluation_of(form(suite=SUITE, kind="trial", editor="jeep", n_edits="0, 16 x"))
    assert (trial["editor"], trial["n_edits"]) == ("jeep", [0, 16, "x"])
    assert "versions" not in trial
    assert probe_of(form(version="", limit="16", quick="yes")) == {
        "version": "base", "quick": True, "limit": 16,
    }  # fmt: skip
    assert probe_of(form(version="v1", suite=SUITE, seed="-")) == {
        "version": "v1", "quick": False, "suite": SUITE, "seed": "-",
    }  # fmt: skip


def test_an_evaluation_is_started_once_and_problems_point_to_fields(
    person: httpx.Client, model: Store
) -> None:
    page = person.get("/console/evaluations", params={"suite": HOSTILE, "version": HOSTILE})
    assert HOSTILE not in page.text
    suites = person.get("/console/evaluations/suites?suite=atlas-zsre").text
    assert '<option value="atlas-zsre" selected>' in suites
    assert "usual" in person.get("/console/evaluations/suites?tasks=false").text
    assert "Nothing was measured yet" in person.get("/console/evaluations/newest").text
    headers = scripts(person) | {"Idempotency-Key": "k"}
    sent = {"suite": SUITE, "kind": "versions", "version": ["base", "head"], "limit": "4"}
    answers = [person.post("/console/evaluations", data=sent, headers=headers) for _ in range(2)]
    assert answers[0].status_code == 200, answers[0].text
    assert answers[0].json() == answers[1].json()
    shown = person.get(answers[0].json()["location"])
    assert "data-job=" in shown.text
    assert "Waits for its turn" in shown.text
    assert model.journal.count_open() == 1
    bad = {"suite": SUITE, "version": "v99", "limit": "x"}
    wrong = person.post("/console/evaluations", data=bad, headers=scripts(person))
    assert wrong.status_code == 422
    assert {one["pointer"] for one in wrong.json()["errors"]} == {"/limit"}
    unknown = {"suite": "x", "version": "head"}
    answer = person.post("/console/evaluations", data=unknown, headers=scripts(person))
    assert answer.status_code == 404
    trial = {"suite": SUITE, "kind": "trial", "editor": "jeep", "n_edits": "0", "limit": "4"}
    none = person.post("/console/evaluations", data=trial, headers=scripts(person))
    assert [one["pointer"] for one in none.json()["errors"]] == ["/n_edits"]
    nothing = person.post("/console/evaluations", data={"suite": SUITE}, headers=scripts(person))
    assert [one["pointer"] for one in nothing.json()["errors"]] == ["/versions"], "none is ticked"
    assert person.post("/console/evaluations", data=sent).status_code == 403


def test_a_suite_is_added(person: httpx.Client, model: Store) -> None:
    line = {"subject": "Lyon", "prompt": "{} is in", "target_new": "Japan", "target_true": "France"}
    content, headers = json.dumps(line).encode(), scripts(person)
    added = person.post("/console/suites?name=mine&format=", content=content, headers=headers)
    assert added.json()["location"] == "/console/evaluations?suite=mine"
    assert model.suites.get("mine").cases == 1
    assert "/console/evaluations/suites?suite=mine" in person.get(added.json()["location"]).text
    suites = person.get("/console/evaluations/suites?suite=mine").text
    assert '<option value="mine" selected>mine, 1 case<' in suites
    bad = person.post("/console/suites?name=bad", content=b"{", headers=headers)
    assert bad.status_code == 422
    nameless = person.post("/console/suites", content=content, headers=headers)
    assert [one["parameter"] for one in nameless.json()["errors"]] == ["name"]


def test_scopes_decide_what_is_offered(shown: httpx.Client, kept: Store) -> None:
    sign_in(shown, kept, Scope.READ)
    for path in ("/console/evaluations", "/console/probes"):
        page = shown.get(path)
        assert page.status_code == 200
        assert "data-sends" not in page.text
        assert "needs a key with the scope <code>edit</code>" in page.text
        refused = shown.post(path, headers=change_headers(page))
        assert refused.status_code == 403
    shown.post("/console/sign-out")
    sign_in(shown, kept, Scope.GENERATE)
    assert shown.get("/console/evaluations").status_code == 403


def test_without_a_model_pages_say_why(person: httpx.Client, store: Store) -> None:
    for path in ("/console/evaluations", "/console/probes"):
        page = person.get(path)
        assert (page.status_code, "There is no model" in page.text) == (200, True)
        assert "<form class" not in page.text


# ---------------------------------------------------------------- evaluations


def cell(value: float) -> str:
    return f'data-value="{value}" data-low="{value - 1}" data-high="{value + 2}"'


def test_figures_are_shown_with_intervals_and_drawn(person: httpx.Client, model: Store) -> None:
    evaluation, _ = finished_evaluation(person, model)
    page = person.get(f"/console/evaluations/{evaluation}")
    assert page.text.count(cell(90.0)) == 2
    assert 'data-plot="points"' in page.text
    assert "/console/static/vendor/uPlot.iife.min.js" in page.text
    for one in (SCORE, PERPLEXITY):
        title = f"Asked: {one.asked}; how: {one.how}; judged: {one.judged}"
        assert f'title="{title}; compare with: {one.comparable}"' in page.text
    assert "5" * 64 in page.text
    part = person.get(f"/console/evaluations/{evaluation}/outcome")
    assert part.headers["hx-trigger"] == "jeep-changed"
    assert "<html" not in part.text
    newest = person.get("/console/evaluations/newest").text
    assert f'href="/console/evaluations/{evaluation}"' in newest
    assert re.search(r"base v0 ?, head v0 score 90, 90 succeeded \d+ s ago", read_as_text(newest))
    [listed] = person.get("/evaluations").json()["data"]
    assert (listed["metric"], listed["figures"]) == ("score", {"base": 90.0, "head": 90.0})


def test_where_all_cases_agree_no_interval_is_shown(person: httpx.Client, model: Store) -> None:
    evaluation, _ = finished_evaluation(person, model)
    job = next(one for one in model.journal.all() if one.result)
    alike = MetricInterval(value=100.0, low=100.0, high=100.0, cases=12)
    result = EvaluationResult.model_validate(job.result)
    for point in result.points:
        point.metrics = {"efficacy": alike, "locality": interval(70)}
    model.journal.save(job.model_copy(update={"result": result.model_dump(mode="json")}))
    text = read_as_text(person.get(f"/console/evaluations/{evaluation}").text)
    assert "100 (all 12 cases)" in text
    assert "(100 to 100)" not in text
    assert "70 (69 to 72)" in text
    assert "up to 3 in N" in text
    [listed] = person.get("/evaluations").json()["data"]
    assert (listed["metric"], listed["figures"]["head"]) == ("efficacy", 100.0)


def test_the_judge_and_groups_of_questions_are_told(person: httpx.Client, model: Store) -> None:
    evaluation, _ = finished_evaluation(person, model)
    job = next(one for one in model.journal.all() if one.result)
    result = EvaluationResult.model_validate(job.result)
    result.judge = JudgeRecord(model="gpt-x", address="http://j/v1", answers=4, unclear=1)
    for point in result.points:
        point.metrics = {
            name: interval(50)
            for name in ("portability/2 hops", "free_contains_portability/2 hops")
        }
    model.journal.save(job.model_copy(update={"result": result.model_dump(mode="json")}))
    text = read_as_text(person.get(f"/console/evaluations/{evaluation}").text)
    assert "Judge: gpt-x at http://j/v1; neither yes nor no: 1 of 4 answers." in text
    assert "what follows, 2 hops, tokens" in text
    assert "what follows, 2 hops, contains" in text
    assert "portability/" not in text


def test_a_judge_is_asked_by_who_may(shown: httpx.Client, kept: Store) -> None:
    sign_in(shown, kept, Scope.READ, Scope.EDIT)
    assert 'data-pointer="/free/judge' not in shown.get("/console/evaluations").text
    shown.post("/console/sign-out")
    sign_in(shown, kept, Scope.READ, Scope.EDIT, Scope.ADMIN)
    page = shown.get("/console/evaluations")
    assert page.text.count('data-pointer="/free/judge') == 4
    sent = {"suite": SUITE, "kind": "versions", "version": ["head"], "judge": "yes"}
    headers = {n: v for n, v in change_headers(page).items() if n != "HX-Request"}
    answer = shown.post(
        "/console/evaluations", data=sent, headers=headers | {"Accept": "application/json"}
    )
    assert [one["pointer"] for one in answer.json()["errors"]] == [
        "/free/judge/model", "/free/judge/address",
    ]  # fmt: skip
    assert answer.json()["detail"] == (
        "/free/judge/model: no model is set: give one, or set JEEP_JUDGE_MODEL; "
        "/free/judge/address: no address is set: give one, or set JEEP_JUDGE_ADDRESS"
    )


def test_two_targets_are_compared_with_what_broke(
    person: httpx.Client, model: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluations, "SHOWN", 2)
    evaluation, folder = finished_evaluation(person, model)
    path = f"/console/evaluations/{evaluation}/compare"
    broken = [
        CaseChange(id=str(i), prompt=f"{HOSTILE} {i}", metrics={"greedy": (1.0, 0.0)})
        for i in range(3)
    ]
    better = [CaseChange(id="9", prompt="nine", metrics={"efficacy": (0.0, 1.0)})]
    compared = EvaluationComparison(
        a="base", b="head", cases=5, differences={"score": interval(-5.5)}, better=better,
        broken=broken,
    )  # fmt: skip
    (folder / "comparisons.jsonl").write_text(compared.model_dump_json() + "\n")
    model.reports.seal(folder.name)
    part = person.get(path, params={"a": "base", "b": "head"})
    assert part.status_code == 200, part.text
    assert HOSTILE not in part.text
    assert "-5.5" in part.text
    assert f"how: {SCORE.how}" in part.text
    assert "Base was measured on 2 cases, head on 2 cases; compared are the 5" in part.text
    assert "1 to 2 of 3" in part.text
    last = person.get(path, params={"a": "base", "b": "head", "first": 2})
    assert re.findall(r"\}\} (\d)</th>", html.unescape(last.text)) == ["2"]
    turned = person.get(path, params={"a": "head", "b": "base"})
    assert "nine" in turned.text, "what had got better"
    gained = person.get(path, params={"a": "base", "b": "head", "kind": "better"})
    assert "efficacy 0 → 1" in gained.text
    same = person.get(path, params={"a": "head", "b": "head"}, headers={"HX-Request": "true"})
    assert (same.status_code, "same_target" in same.text) == (422, True)


def test_cases_are_listed_in_parts_and_come_as_a_file(
    person: httpx.Client, model: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluations, "SHOWN", 2)
    evaluation, folder = finished_evaluation(person, model)
    question = {"kind": "edit", "prompt": HOSTILE, "right": "J", "p_right": 0.25, "writes": False}
    rows: list[dict[str, Any]] = [
        {"target": "base", "id": str(i), "prompt": f"case-{i}", "target_new": "J",
         "efficacy": float(i % 2), "scores": {"efficacy": float(i % 2), "portability": None},
         "prompts": [question]}
        for i in range(6)
    ]  # fmt: skip
    (folder / "cases-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model.reports.seal(folder.name)
    path = f"/console/evaluations/{evaluation}/list"
    first = person.get(path, params={"target": "base"})
    assert HOSTILE not in first.text
    assert re.findall(r"case-\d", first.text) == ["case-0", "case-1"]
    assert "25 %" in first.text
    assert "not written" in first.text
    missed = person.get(path, params={"target": "base", "which": "missed", "first": 2})
    assert re.findall(r"case-\d", missed.text) == ["case-4"]
    assert "Later cases" in missed.text
    gone = person.get(path, params={"target": "x"}, headers={"HX-Request": "true"})
    assert gone.status_code == 404
    file = person.get(f"/console/evaluations/{evaluation}/cases", params={"target": "base"})
    assert file.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line)["prompt"] for line in file.text.splitlines()] == [
        f"case-{i}" for i in range(6)
    ]
    assert "attachment" in file.headers["content-disposition"]
    assert person.get("/console/evaluations/eval_x/cases").status_code == 404


def test_trials_are_drawn_over_the_number_of_edits(person: httpx.Client, model: Store) -> None:
    evaluation, folder = finished_evaluation(person, model)
    job = model.journal.read(folder.name)
    points = [
        EvaluationPoint(
            label=f"jeep-{n}", n_edits=n, cases=2, metrics={"score": interval(n)}, seconds=1
        )
        for n in (1, 16)
    ]
    result = EvaluationResult.model_validate(job.result).model_copy(
        update={"points": points, "warnings": [HOSTILE]}
    )
    targets = [Target(label=one.label, n_edits=one.n_edits) for one in points]
    payload = job.payload | {
        "editor": "jeep", "targets": [one.model_dump(mode="json") for one in targets],
    }  # fmt: skip
    changed = {"payload": payload, "result": result.model_dump(mode="json")}
    model.journal.save(job.model_copy(update=changed))
    page = person.get(f"/console/evaluations/{evaluation}").text
    assert 'data-plot="steps"' in page
    assert re.findall(r'data-x="\d+">(\d+)<', page) == ["1", "16"]
    assert HOSTILE not in page


def test_what_failed_or_was_cancelled_says_so(person: httpx.Client, model: Store) -> None:
    for kind, body in (("evaluations", {"suite": SUITE}), ("probes", {})):
        job = person.post(f"/{kind}", json=body).json()
        path = f"/console/{kind}/{job['resource_id']}"
        person.post(f"/console/jobs/{job['id']}/cancel", headers=scripts(person))
        assert "It was cancelled" in person.get(path).text
        error = JobError(code="out_of_memory", message=HOSTILE)
        ended = {"status": JobStatus.FAILED, "error": error, "finished_at": now()}
        model.journal.save(model.journal.read(job["id"]).model_copy(update=ended))
        text = person.get(path).text
        assert "It failed" in text
        assert HOSTILE not in text


# ---------------------------------------------------------------- probes


def test_a_probe_is_started_and_shown_with_its_curves(
    person: httpx.Client, model: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No version was probed yet" in person.get("/console/probes/newest").text
    sent = {"version": "base", "limit": "16", "quick": "yes"}
    started = person.post("/console/probes", data=sent, headers=scripts(person))
    assert "data-job=" in person.get(started.json()["location"]).text
    wrong = person.post("/console/probes", data={"limit": "2"}, headers=scripts(person))
    assert [one["pointer"] for one in wrong.json()["errors"]] == ["/limit"]
    probe, folder = finished_probe(person, model)
    record = json.loads((ROOT / "docs/figures/probe-smollm2-135m/probe.json").read_text())
    (folder / "probe.json").write_text(json.dumps(record))
    model.reports.seal(folder.name)
    page = person.get(f"/console/probes/{probe}")
    assert "Edit layers 1, 2 and 7" in page.text
    assert page.text.count('data-plot="lines"') == len(plots_of(record)) == 3
    assert 'data-x="29"' in page.text
    assert "; edits without hyper-parameters have the model" in read_as_text(page.text)
    monkeypatch.setattr("service.api.console.pages.measuring.probes.usual_presets", lambda _: [])
    for path in (f"/console/probes/{probe}", "/console/probes"):
        assert "and those without any, go by" in read_as_text(person.get(path).text)
    file = person.get(f"/console/probes/{probe}/files/answers.png")
    assert (file.headers["content-type"], file.content) == ("image/png", b"\x89PNG")
    assert person.get(f"/console/probes/{probe}/files/notes.txt").status_code == 404
    assert "1, 2" in person.get("/console/probes/newest").text


def test_curves_are_those_that_a_record_has() -> None:
    band = {"mean": [0.1, 0.2], "low": [0.0, 0.1], "high": [0.2, 0.3]}
    record = {
        "proposal": {"low": [0], "high": [1]},
        "branches": {"attention": band, "mlp": band},
        "patching": {"exchange": None, "restoration": {"effect": band}},
    }
    found = plots_of(record)
    assert [(plot.title, list(plot.shaded)) for plot in found] == [
        ("Attention and MLP", [1]), ("Exchanged states", [0]),
    ]  # fmt: skip
    assert [curve.name for curve in found[1].curves] == ["original gained again"]
    assert plots_of({"format": 1, "n_layers": 9}) == []
