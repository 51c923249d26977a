"""History: the list, a version, two versions, drift, the audit log; and hostile texts in all."""

import html
import re

import httpx
import pytest
from support.service.builders import add_version
from support.service.console import browser, change_headers, read_as_text, seen, sign_in
from support.service.console.histories import HOSTILE, MATRIX, batch, fact, write_history

from service.api.console.pages.history.differing import difference
from service.contracts.jobs import JobError, JobStatus, now
from service.contracts.schemas import Manifest
from service.contracts.schemas.access import Scope
from service.store import Store
from service.store.versions import Versions


@pytest.fixture
def past(shown: httpx.Client, kept: Store) -> httpx.Client:
    """A signed-in browser at a store with a history."""
    if kept.versions.newest_number() == 0:
        write_history(kept)
    sign_in(shown, kept)
    return shown


def rows_of(page: httpx.Response) -> list[str]:
    return re.findall(r"<tr>(.*?)</tr>", page.text, re.DOTALL)


def test_versions_stand_in_a_list_with_what_each_changed(past: httpx.Client) -> None:
    frame = past.get("/console/history")
    assert frame.status_code == 200
    assert "Lyon" not in frame.text, "rows come by themselves"
    page = past.get("/console/history/rows")
    rows = rows_of(page)
    texts = [read_as_text(row) for row in rows]
    assert [text.split()[0] for text in texts[:5]] == ["v4", "v3", "v2", "v1", "v0"]
    assert "staged" in texts[0]
    assert "Oslo → Chile" in texts[0]
    assert texts[1].startswith("v3 head Lyon → Japan, ")
    assert "1 of 2" in texts[1]
    assert texts[1].index("on v1") > 0, "not the version below it"
    assert texts[3].startswith("v1 good Lyon → Italy, Nice → Spain")
    assert "on v0" not in texts[3]
    assert "as it was loaded" in texts[4]
    columns = re.findall(r'<circle cx="(\d+)"', page.text)
    assert columns == ["24", "10", "24", "10", "10"]
    assert HOSTILE not in page.text
    assert html.escape(HOSTILE)[:20] in page.text


def test_pages_of_the_list_go_on_where_the_lines_were(
    past: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.console.pages.history.listing.ROWS", 2)
    whole = []
    address: str | None = "/console/history/rows"
    while address:
        page = past.get(address)
        whole += re.findall(r'<circle cx="(\d+)" .*? class="(\w+)"', page.text)
        found = re.search(r'hx-get="(/console/history/rows\?after=[^"]+)"', page.text)
        address = html.unescape(found[1]) if found else None
        assert address is None or "autofocus" in past.get(address).text
    assert [column for column, _ in whole] == ["24", "10", "24", "10", "10"]
    assert [state for _, state in whole] == [
        "staged",
        "head",
        "committed",
        "committed",
        "committed",
    ]
    odd = past.get("/console/history/rows", params={"after": "v3", "lanes": HOSTILE * 50})
    assert odd.status_code == 200
    assert HOSTILE not in odd.text


def test_a_version_whose_record_cannot_be_read_now_says_so(
    past: httpx.Client, kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index knows how many facts it has, its manifest which."""
    read = Versions.read_to_show

    def hindered(versions: Versions, version: str) -> Manifest | None:
        return None if version == "v1" else read(versions, version)

    monkeypatch.setattr(Versions, "read_to_show", hindered)
    texts = [read_as_text(row) for row in rows_of(past.get("/console/history/rows"))]
    assert texts[3].startswith("v1 good facts that cannot be read now: 2")
    assert texts[1].startswith("v3 head Lyon → Japan, ")


def test_a_version_says_how_it_was_made(past: httpx.Client) -> None:
    page = past.get("/console/history/versions/head")
    text = seen(page)
    for said in (
        "Version v3 head", "Built on v1", "v4 built on it", "2 facts",
        "Lyon is a city in the country of",
        "Layer 5: large", "1 % → 90 %", "preset default", "Hyper-parameters layers [4, 5]",
        "5 late", "0.25 ×", "2 → 0.5", "min efficacy 0.5 1", "max drift 0.2 0.125",
        "1 of 1 was asked again", "values 1.5 s", "scope admin",
    ):  # fmt: skip
        assert said in text, said
    assert HOSTILE not in page.text
    named = past.get("/console/history/versions/good")
    assert "Version v1 committed good" in seen(named)
    base = past.get("/console/history/versions/v0")
    assert "the model as it was loaded" in base.text
    assert "Take the batch out" not in base.text
    assert past.get("/console/history/versions/v99").status_code == 404
    go = past.get("/console/history/go", params={"ref": " good "})
    assert go.url.path == "/console/history/versions/good"
    gone = past.get("/console/history/go", params={"ref": "../../edits"})
    assert (gone.status_code, gone.url.path) == (404, "/console/history/versions/../../edits")


def test_what_may_be_done_with_a_version_is_offered(past: httpx.Client, kept: Store) -> None:
    acts = {
        version: re.findall(
            r'hx-get="/console/history/versions/\w+/([\w-]+)" hx-target="#dialog"',
            past.get(f"/console/history/versions/{version}/place").text,
        )
        for version in ("v1", "v2", "v3", "v4", "v0")
    }
    assert acts == {
        "v1": ["roll-back", "revert", "name", "export"],
        "v2": ["roll-back", "name", "export"],
        "v3": ["revert", "name", "export"],
        "v4": ["activate", "name", "export"],
        "v0": ["roll-back", "name", "export"],
    }
    past.post("/console/sign-out")
    sign_in(past, kept, Scope.READ)
    page = past.get("/console/history/versions/v1")
    assert "#dialog" not in page.text
    assert "need a key with the scope" in page.text
    assert "/console/ask?" not in page.text
    dialog = past.get("/console/history/versions/v1/roll-back")
    assert "needs a key with the scope edit ; this one, reader" in seen(dialog)
    assert "<button class" not in dialog.text
    headers = change_headers(past.get("/console/history"))
    for act in ("roll-back", "activate", "name", "revert", "export"):
        refused = past.post(f"/console/history/versions/v1/{act}", headers=headers)
        assert (refused.status_code, "lacks the scope" in refused.text) == (403, True), act
    past.post("/console/sign-out")
    sign_in(past, kept, Scope.EDIT)
    headers = change_headers(past.get("/console"))
    blind = past.post("/console/history/versions/v0/roll-back", headers=headers)
    assert (blind.status_code, "Lyon" in blind.text) == (409, False), "it may not read"


def test_facts_of_a_large_batch_come_page_by_page(past: httpx.Client, kept: Store) -> None:
    version = batch(kept, "v2", *(fact(f"City {i}", "Japan") for i in range(70)))
    page = past.get(f"/console/history/versions/{version}")
    assert page.text.count("City ") == 50
    [rest] = re.findall(r'hx-get="(/console/history/versions/\w+/facts\?start=50)"', page.text)
    part = past.get(rest)
    assert part.text.count("City ") == 20
    assert "hx-get" not in part.text


def test_two_versions_differ_in_what_they_were_taught(past: httpx.Client, kept: Store) -> None:
    found = difference(kept, "v2", "v3")
    assert (found.ancestor, [one.id for one in found.gone], [one.id for one in found.come]) == (
        "v1", ["v2"], ["v3"],
    )  # fmt: skip
    [changed] = found.other
    assert changed.before is not None
    assert changed.after is not None
    assert (changed.before.version, changed.after.fact.target_new) == ("v2", "Japan")
    assert [one.after.fact.subject for one in found.taught if one.after] == [HOSTILE]
    assert found.untaught == []
    [matrix] = found.matrices
    assert (matrix.name, matrix.before, matrix.after) == (MATRIX, 0.25, 0.25)
    back = difference(kept, "v3", "v0")
    assert [one.before.version for one in back.untaught if one.before] == ["v3", "v3", "v1"]
    assert back.matrices[0].before == 0.5, "two batches of one line"
    page = past.get("/console/history/compare", params={"a": "v2", "b": "head"})
    text = seen(page)
    assert "1 taught, 0 no longer, 1 otherwise" in text
    assert "Peru v2 Japan v3" in text
    assert MATRIX in text
    assert HOSTILE not in page.text
    assert "Both are v3." in seen(past.get("/console/history/compare?a=head&b=v3"))


def test_a_batch_that_was_edited_again_is_no_difference(past: httpx.Client, kept: Store) -> None:
    v1 = kept.versions.read("v1")
    again = add_version(kept, "v0", edit_id=v1.edit_id, facts=v1.facts, tensors=v1.tensors)
    found = difference(kept, "v1", again)
    assert (found.gone, found.come, found.changes, found.matrices) == ([], [], [], [])
    page = past.get("/console/history/compare", params={"a": "v1", "b": again})
    assert "They hold the same batches" in page.text
    assert "the same, bit for bit" in page.text


def test_what_is_no_version_is_said_beside_its_field(past: httpx.Client) -> None:
    page = past.get("/console/history/compare", params={"a": HOSTILE, "b": "head"})
    assert page.status_code == 404
    assert re.search(r'id="a"[^>]* aria-invalid="true" aria-describedby="a-wrong"', page.text)
    assert 'id="b-wrong"' not in page.text
    assert HOSTILE not in page.text
    assert (
        f'value="{html.escape(HOSTILE, quote=True)}"'.replace("&#x27;", "&#39;").replace(
            "&quot;", "&#34;"
        )
        in page.text
    ), "what was typed stays"


def test_drift_is_measured_from_the_page(past: httpx.Client, kept: Store) -> None:
    where = {"a": "v1", "b": "v3"}
    nothing = past.get("/console/history/drift", params=where)
    assert "Measure the drift" in nothing.text
    headers = change_headers(past.get("/console/history"))
    begun = past.post("/console/history/drift", data=where, headers=headers)
    assert "Waits for its turn" in begun.text
    assert "Waits for its turn" in past.get("/console/history/drift", params=where).text
    [job] = [one for one in kept.journal.unfinished() if one.kind.value == "drift"]
    assert (job.payload["version"], job.payload["against"]) == ("v3", "v1")
    error = JobError(code="boom", message=f"it broke {HOSTILE}")
    ended = {"status": JobStatus.FAILED, "error": error, "finished_at": now()}
    kept.journal.save(job.model_copy(update=ended))
    failed = past.get("/console/history/drift", params=where)
    assert "It broke" in failed.text
    assert HOSTILE not in failed.text
    assert "Measure again" in failed.text
    done = {"status": JobStatus.SUCCEEDED, "error": None, "result": DRIFT | {"drift_id": "x"}}
    kept.journal.save(job.model_copy(update=ended | done))
    text = seen(past.get("/console/history/drift", params=where))
    for said in (
        "all texts 1,200 0.0125 3.2 % 20 → 20.5",
        "Paris 90 % → Rome 80 %",
        "by Lyon → Japan",
    ):
        assert said in text, said
    wrong = past.post("/console/history/drift", data={"a": "x", "b": "v3"}, headers=headers)
    assert (wrong.status_code, "/against" in wrong.text) == (422, True)
    assert past.get("/console/history/drift").status_code == 422


DRIFT = {
    "version": "v3", "against": "v1", "texts": "its own", "prompts": "general knowledge",
    "figures": [{
        "kind": "all texts", "passages": 3, "tokens": 1200,
        "kl": {"value": 0.0125, "low": 0.01, "high": 0.02, "cases": 3},
        "changed": {"value": 3.2, "low": 1, "high": 5, "cases": 3},
        "perplexity_before": 20.0, "perplexity": 20.5,
    }],
    "worst": [{
        "kind": "text", "passage": 0, "context": f"{HOSTILE} lies in", "kl": 1.0,
        "before": [{"text": " Paris", "probability": 0.9}],
        "after": [{"text": " Rome", "probability": 0.8}],
        "facts": [{
            "version": "v3", "edit_id": "e", "index": 0, "subject": "Lyon", "prompt": "{} is",
            "target_new": "Japan", "state": "live", "share": 0.5, "kl_without": 0.1,
        }],
    }],
    "protocol": {"asked": "plainly", "how": "once", "judged": "kl", "comparable": "none"},
    "seconds": 1.0,
}  # fmt: skip


def test_the_audit_log_is_for_admins(past: httpx.Client, kept: Store) -> None:
    headers = change_headers(past.get("/console/history"))
    past.post("/console/history/versions/v2/name", data={"name": "try"}, headers=headers)
    assert past.get("/console/history/audit").status_code == 403
    assert past.get("/console/history/versions/v2/audit").status_code == 403
    assert "/audit" not in past.get("/console/history/versions/v2").text
    past.post("/console/sign-out")
    sign_in(past, kept, Scope.ADMIN)
    page = past.get("/console/history/audit")
    assert "name snapshot" in page.text
    assert "lacks" not in page.text
    about = seen(past.get("/console/history/versions/v2/audit"))
    assert "name snapshot /snapshots v2 ok 201" in about
    assert "No line of the audit log" in past.get("/console/history/versions/v0/audit").text
    assert "/console/history/audit" in past.get("/console/history").text


def test_names_are_listed(past: httpx.Client) -> None:
    assert "good" in past.get("/console/history/names").text


def test_a_service_without_a_model_says_what_is_missing(url: str, store: Store) -> None:
    with browser(url) as person:
        for path in ("/console/history/rows", "/console/facts"):
            page = person.get(path)
            assert page.status_code == 200, path
            assert "base appears when a worker has loaded the model" in page.text
        assert person.get("/console/history").status_code == 200
        assert person.get("/console/history/compare").status_code == 404
        assert person.get("/console/facts?version=v1").status_code == 404


def test_a_store_without_edits_says_how_to_begin(url: str, model: Store) -> None:
    with browser(url) as person:
        assert "has three facts to try" in person.get("/console/history/rows").text
        assert "No edit has taught head anything" in seen(person.get("/console/facts"))
        assert "No version has a name" in person.get("/console/history/names").text
        assert "Nobody has changed anything yet" in person.get("/console/history/audit").text
