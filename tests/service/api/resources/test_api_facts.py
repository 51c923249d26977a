"""Which edit governs a subject: facts of versions over HTTP."""

import httpx
import pytest
from support.service.played_worker.worker import PlayedWorker

from service.store import Store

WAIT = {"Prefer": "wait=20"}


def edit(http: httpx.Client, *facts: tuple[str, str], prompt: str = "{} is a city in") -> dict:
    records = [{"subject": s, "prompt": prompt, "target_new": t} for s, t in facts]
    answer = http.post("/edits", json={"facts": records}, headers=WAIT)
    assert answer.status_code == 200, answer.text
    return answer.json()


def facts(http: httpx.Client, **params: object) -> list[tuple[str, str, str]]:
    answer = http.get("/facts", params=params)
    assert answer.status_code == 200, answer.text
    return [(one["subject"], one["target_new"], one["state"]) for one in answer.json()["data"]]


def test_a_subject_s_facts_name_their_edit_and_what_it_superseded(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    first = edit(http, ("Lyon", "Italy"), ("Orléans", "Peru"))
    second = edit(http, ("Lyon", "Spain"))
    answer = http.get("/facts", params={"subject": " Lyon\n"})
    assert answer.headers["x-model-version"] == answer.json()["version"] == "v2"
    newest, older = answer.json()["data"]
    assert newest == {
        "subject": "Lyon",
        "prompt": "{} is a city in",
        "text": "Lyon is a city in",
        "messages": None,
        "chat_prompt": None,
        "target_new": "Spain",
        "target_true": None,
        "join": "auto",
        "edit_id": second["edit_id"],
        "version": "v2",
        "index": 0,
        "state": "live",
        "superseded_by": None,
        "holds": True,
        "checked_in": "v2",
        "check_id": None,
        "created_at": newest["created_at"],
    }
    assert (older["edit_id"], older["state"]) == (first["edit_id"], "superseded")
    assert older["superseded_by"] == second["edit_id"]
    assert facts(http, subject="Orle\u0301ans") == [("Orléans", "Peru", "live")]
    assert facts(http, subject="Nice") == facts(http, subject="  ") == []


def test_a_version_has_its_own_facts(http: httpx.Client, worker: PlayedWorker) -> None:
    edit(http, ("Lyon", "Italy"))
    edit(http, ("Lyon", "Spain"), ("Nice", "Peru"))
    assert facts(http) == [("Lyon", "Spain", "live"), ("Nice", "Peru", "live")]
    assert facts(http, version="v1") == [("Lyon", "Italy", "live")]
    assert facts(http, version="base") == []
    http.post("/rollback/v1")
    assert facts(http, subject="Lyon") == [("Lyon", "Italy", "live")]
    assert http.get("/facts?version=v9").json()["code"] == "unknown_version"


def test_pages_belong_to_one_version(http: httpx.Client, worker: PlayedWorker) -> None:
    edit(http, *((f"City{i}", "Italy") for i in range(3)))
    edit(http, ("City1", "Spain"), ("Nice", "Peru"))
    everything = facts(http)
    assert len(everything) == 4
    seen, params = [], {"limit": 2}
    for _ in range(2):
        page = http.get("/facts", params=params).json()
        seen += [(one["subject"], one["target_new"], one["state"]) for one in page["data"]]
        http.post("/rollback/base")
        params = {"limit": 2, "after": page["next"]}
    assert (seen, page["has_more"], page["version"]) == (everything, False, "v2")


@pytest.mark.parametrize("query", ["after=v1", "after=x.1", "limit=0", "holds=x"])
def test_wrong_parameters_of_facts_are_refused(
    http: httpx.Client, model: Store, query: str
) -> None:
    answer = http.get(f"/facts?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == query.partition("=")[0]


def test_facts_before_any_model_are_refused(http: httpx.Client, store: Store) -> None:
    assert http.get("/facts").status_code == 404


def test_facts_are_searched_in_subject_prompt_and_answer(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    edit(http, ("Lyon", "Italy"), ("Orléans", "Peru"), ("Nice", "Spain"))
    edit(http, ("Lyon", "Japan"))
    assert facts(http, contains="LY") == [("Lyon", "Japan", "live")]
    assert facts(http, contains="orle\u0301") == [("Orléans", "Peru", "live")]
    assert facts(http, contains="spain") == [("Nice", "Spain", "live")]
    assert len(facts(http, contains="is a City in")) == 3
    assert facts(http, contains="Nice is a") == [("Nice", "Spain", "live")]
    assert facts(http, contains="Italy") == [], "superseded"
    assert facts(http, contains="Italy", subject="Lyon") == [("Lyon", "Italy", "superseded")]
    assert facts(http, contains="{}") == [], "what is read, not how it is written down"
    assert facts(http, contains="Peru", holds=True) == [("Orléans", "Peru", "live")]
    assert facts(http, holds=False) == facts(http, subject="Lyon", holds=False) == []
    page = http.get("/facts", params={"contains": "city", "limit": 2}).json()
    rest = http.get("/facts", params={"contains": "city", "after": page["next"]}).json()
    assert [one["subject"] for one in page["data"] + rest["data"]] == ["Lyon", "Orléans", "Nice"]
    assert http.get("/facts", params={"contains": "x" * 201}).status_code == 422
