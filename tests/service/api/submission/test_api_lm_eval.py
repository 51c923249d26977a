"""Tasks of lm-eval over HTTP: what is listed, what is queued, and what is refused and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service.serving import running
from typer.testing import CliRunner

from jeep_core.evaluation.harness.catalogue import find
from service.cli import app
from service.client import Client
from service.contracts.schemas import EvaluationPayload
from service.settings import Settings
from service.store import Store

TASK = """\
task: mine
dataset_path: text
dataset_kwargs:
  data_files: {test: data.txt}
output_type: loglikelihood_rolling
"""


@pytest.fixture
def capable(model: Store) -> Store:
    """A store whose worker has lm-eval."""
    info = model.base.info()
    assert info is not None
    model.base.publish(info.model_copy(update={"lm_eval": "0.4.13"}), {})
    return model


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "data.txt").write_text("Lyon lies in France.\n")
    (folder / "mine.yaml").write_text(TASK)
    settings.lm_eval_tasks = folder
    return folder


def submit(http: httpx.Client, suite: str, **body: Any) -> httpx.Response:
    return http.post("/evaluations", json={"suite": suite, **body})


def test_base_and_head_are_asked_if_nothing_else_is_said(
    http: httpx.Client, capable: Store
) -> None:
    answer = submit(http, "lm-eval:general", limit=5, seed=2)
    assert answer.status_code == 202, answer.text
    found = EvaluationPayload.model_validate(capable.journal.read(answer.json()["id"]).payload)
    assert [target.label for target in found.targets] == ["base", "head"]
    assert (found.suite, found.limit, found.seed) == ("lm-eval:general", 5, 2)
    assert found.suite_sha256 == find("lm-eval:general", None).sha256
    shown = http.get(f"/evaluations/{answer.json()['evaluation_id']}").json()
    assert shown["suite"] == "lm-eval:general"


def test_a_worker_without_lm_eval_is_told_how_to_get_it(http: httpx.Client, model: Store) -> None:
    answer = submit(http, "lm-eval:general")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_lm_eval")
    assert "pip install 'jeep-edit[lm-eval]'" in answer.json()["message"]
    listed = http.get("/suites").json()["lm_eval"]
    assert listed["version"] is None
    assert listed["unavailable"] == answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        ({"suite": "lm-eval:none"}, 404, "unknown_suite", "take one of general"),
        ({"suite": "lm-eval:../x.yaml"}, 404, "unknown_suite", "JEEP_LM_EVAL_TASKS"),
        ({"suite": "lm-eval:general", "editor": "memit", "n_edits": [1]}, 422, "invalid_request",
         "/editor: a trial edits the facts of a suite"),
        ({"suite": "lm-eval:general", "ask": "chat"}, 422, "invalid_request", "no chat template"),
        ({"suite": "lm-eval:general", "versions": ["no"]}, 422, "invalid_request", "/versions/0"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(
    body: dict[str, Any], status: int, code: str, said: str, http: httpx.Client, capable: Store
) -> None:
    answer = http.post("/evaluations", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert said in answer.json()["detail"]
    assert list(capable.journal.all()) == []


def test_tasks_of_the_operators_folder_are_listed_and_taken(
    own: Path, settings: Settings, capable: Store
) -> None:
    (own / "bad.yaml").write_text(TASK.replace("mine", "bad").replace("text\n", "owner/data\n"))
    with running(settings) as url, httpx.Client(base_url=url) as http, Client(url) as client:
        listed = {one.name: one for one in client.lm_eval().tasks}
        assert (listed["mine"].file, listed["mine"].bundled) == ("mine.yaml", False)
        assert "is not local" in (listed["bad"].problem or "")
        for suite in ("lm-eval:mine", "lm-eval:mine.yaml"):
            assert submit(http, suite).status_code == 202
        refused = submit(http, "lm-eval:bad")
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_task")
        said = CliRunner().invoke(app, ["suites", "tasks", "--url", url]).output
    assert "lm-eval:mine" in said
    assert "lm-eval 0.4.13" in said
