"""Editors of other distributions: the documented example, and everything that can be wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

DOCUMENT = ROOT / "docs" / "editors.md"

HPARAMS = """
from jeep_core.editors import EditorPlugin
from jeep_core.spec.hparams import EditorHParams

class MineHParams(EditorHParams):
    size: int = 1
    def layer_problems(self, n_layers):
        return []

plugin = EditorPlugin(hparams=MineHParams, editor="{module}:Mine")
"""
API = """
import json, sys
from pathlib import Path
from service.api.http.openapi import Api
from service.api.submission.edits import Submission, checked
from service.api.model import PublishedModel
from service.api.http.problems import ApiProblem
from service.contracts.schemas import EditRequest, FactIn
from tokenizers import Tokenizer
from support.service.bundled_model import info
from jeep_core.atlas import MODELS
from fastapi import FastAPI

app = Api()
@app.post("/edits")
def edits(body: EditRequest): ...
model = PublishedModel(info(), Tokenizer.from_file(str(MODELS["atlas-gptj"] / "tokenizer.json")))
fact = {"subject": "Lyon", "prompt": "{} lies in", "target_new": "Japan"}
def ask(editor, hparams):
    try:
        request = EditRequest(facts=[FactIn(**fact)], editor=editor, hparams=hparams)
        return {"hparams": checked(Submission(request, request.facts), model).hparams_record}
    except ApiProblem as problem:
        return {"status": problem.status, "errors": problem.errors}
asked = json.loads(sys.stdin.read())
answers = [ask(*one) for one in asked]
schema = app.openapi()
print(json.dumps({"answers": answers, "schemas": schema["components"]["schemas"],
                  "torch": "torch" in sys.modules}))
"""
WORKER = """
import json
import sys
from pathlib import Path
import jeep_core as jc
from jeep_core.decoding.generation import score
from jeep_core.editors import create
from jeep_core.errors import InvalidHParams
from service.settings import Settings
from service.store import Store
from service.worker.members.publishing import prepare
folder = Path(json.loads(sys.stdin.read()))
model = jc.load("atlas-gptj", device="cpu")
store = Store.open(folder / "store")
prepare(store, model, Settings(presets=folder / "presets"))
fact = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Japan"}
result = jc.edit(model, [fact], "nudge", hparams={"layer": 7})
edited = jc.ModelView(model)
edited.apply(result.delta)
pair = [("Lyon is a city in the country of", " Japan")]
means = [score(view, pair)[0].mean for view in (jc.ModelView(model), edited)]
try:
    refused = create("absent")
except InvalidHParams as error:
    refused = str(error)
presets = store.base.info().presets["mine"]
print(json.dumps({"means": means, "presets": presets, "refused": refused}))
"""


def install(where: Path, name: str, entries: dict[str, str], files: dict[str, str]) -> None:
    """What an installer leaves behind: modules, and a .dist-info folder beside them."""
    for path, text in files.items():
        (where / path).parent.mkdir(parents=True, exist_ok=True)
        (where / path).write_text(text)
    info = where / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{editor} = {value}" for editor, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[jeep.editors]", *lines, ""]))


def documented(where: Path) -> None:
    """Install the example of the documentation."""
    text = DOCUMENT.read_text(encoding="utf-8")
    files = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", text, re.M | re.S))
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    assert project["version"] == "1.0"
    install(where, project["name"], project["entry-points"]["jeep.editors"], files)


def run(code: str, where: Path, stdin: Any = None) -> tuple[Any, str]:
    """Run a program with the distributions in ``where``; what it printed, and its log."""
    paths = [where, ROOT, ROOT / "tests"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(stdin), capture_output=True, text=True,
        env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


BROKEN = {
    "import": ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
    "exit": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "missing": ("", "has no attribute 'plugin'"),
    "no plugin": ("plugin = 7", "mine:plugin is no EditorRecord"),
    "hparams": (
        "from jeep_core.editors import EditorPlugin\nplugin = EditorPlugin(dict, 'mine:Mine')",
        "no subclass of EditorHParams",
    ),
    "target": (
        HPARAMS.format(module="mine").replace("mine:Mine", "mine"),
        "must be 'module:class', not 'mine'",
    ),
    "layers": (
        HPARAMS.format(module="mine").replace("layer_problems", "problems"),
        "MineHParams does not define layer_problems",
    ),
}


NUDGES: list[tuple[str, dict[str, Any]]] = [
    ("nudge", {"layer": 7}),
    ("nudge", {"layer": 9}),
    ("nudge", {"layer": 7, "strength": 0}),
    ("nudge", {}),
    ("nudg", {}),
]
CLASHES: list[tuple[str, dict[str, Any]]] = [("mine", {}), ("jeep", {}), ("theirs", {})]


@dataclass(frozen=True)
class Answered:
    """Answers of an api that has found the documented editor, names that clash, and broken ones."""

    nudges: list[dict[str, Any]]
    clashes: list[dict[str, Any]]
    broken: list[dict[str, Any]]
    whole: dict[str, Any]
    schemas: dict[str, Any]
    torch: bool
    log: str


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    where = tmp_path_factory.mktemp("installed")
    documented(where)
    mine = {"mine_a.py": HPARAMS.format(module="mine_a")}
    install(where, "dist-a", {"mine": "mine_a:plugin", "jeep": "mine_a:plugin"}, mine)
    theirs = {"mine_b.py": HPARAMS.format(module="mine_b")}
    install(where, "dist-b", {"mine": "mine_b:plugin", "theirs": "mine_b:plugin"}, theirs)
    for i, (text, _) in enumerate(BROKEN.values()):
        module = f"mine{i}"
        files = {f"{module}.py": text.replace("mine:", f"{module}:")}
        install(where, f"dist-{i}", {f"broken{i}": f"{module}:plugin"}, files)
    broken = [(f"broken{i}", {}) for i in range(len(BROKEN))]
    found, log = run(API, where, [*NUDGES, *CLASHES, *broken, ("memit", {})])
    answers = iter(found["answers"])
    nudges, clashes, wrong = ([next(answers) for _ in part] for part in (NUDGES, CLASHES, broken))
    return Answered(nudges, clashes, wrong, next(answers), found["schemas"], found["torch"], log)


def test_hyper_parameters_of_a_plugin_are_validated_and_described_without_torch(
    answered: Answered,
) -> None:
    whole, *wrong = answered.nudges
    assert whole["hparams"] == {"layer": 7, "strength": 1.0, "ridge": 0.01}
    assert wrong.pop(2)["hparams"] == "auto", "its record says what it takes of a probe"
    assert [(a["status"], a["errors"][0]["pointer"], a["errors"][0]["code"]) for a in wrong] == [
        (422, "/hparams/layer", "no_such_layer"),
        (422, "/hparams/strength", "greater_than"),
        (422, "/editor", "unknown_editor"),
    ]
    assert "did you mean 'nudge'" in wrong[-1]["errors"][0]["message"]
    assert "description" in answered.schemas["NudgeHParams"]["properties"]["strength"]
    request = answered.schemas["EditRequest"]["properties"]
    assert "nudge" in request["editor"]["enum"]
    assert "`nudge`: `NudgeHParams`" in request["hparams"]["description"]
    assert not answered.torch


def test_names_are_registered_once(answered: Answered) -> None:
    clash, built_in, alone = answered.clashes
    [error] = clash["errors"]
    assert (error["pointer"], error["code"]) == ("/editor", "broken_editor")
    assert "registered by dist-a 1.0 and dist-b 1.0" in error["message"]
    assert "low" in built_in["hparams"], "the built-in editor keeps its name"
    assert alone["hparams"] == {"size": 1}
    editors = answered.schemas["EditRequest"]["properties"]["editor"]["enum"]
    assert "mine" not in editors
    assert "theirs" in editors
    assert "dist-a 1.0 registers the editor 'jeep', which is built in" in answered.log
    assert "registered by dist-a 1.0 and dist-b 1.0" in answered.log


def test_broken_plugins_are_reported_and_touch_nothing_else(answered: Answered) -> None:
    assert "low" in answered.whole["hparams"]
    for i, (answer, (_, reason)) in enumerate(zip(answered.broken, BROKEN.values(), strict=True)):
        [error] = answer["errors"]
        assert (answer["status"], error["code"]) == (422, "broken_editor")
        said = f"the editor 'broken{i}' of dist-{i} 1.0 cannot be used: "
        assert error["message"].startswith(said)
        assert reason.replace("mine:", f"mine{i}:") in error["message"]
        assert said in answered.log


@dataclass(frozen=True)
class Worked:
    """Mean log-probabilities before and after an edit by the documented editor, in a worker that
    has begun with presets of a working editor and a broken one; those it published, how it refused
    an editor whose module is not there, and its log.
    """

    before: float
    after: float
    published: list[str]
    refused: str
    log: str


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Worked:
    where = tmp_path_factory.mktemp("worker")
    documented(where)
    install(where, "dist-a", {"mine": "mine:plugin"}, {"mine.py": HPARAMS.format(module="mine")})
    install(where, "dist-b", {"broken": "broken:plugin"}, {"broken.py": "1 / 0"})
    absent = {"absent.py": HPARAMS.format(module="gone")}
    install(where, "dist-c", {"absent": "absent:plugin"}, absent)
    (where / "presets").mkdir()
    for editor in ("mine", "broken"):
        text = f"editor: {editor}\nmodel: atlas-gptj\norigin: here\nhparams: {{size: 2}}\n"
        (where / "presets" / f"own-{editor}.yaml").write_text(text)
    found, log = run(WORKER, where, str(where))
    return Worked(*found["means"], found["presets"], found["refused"], log)


def test_the_documented_editor_edits(worked: Worked) -> None:
    assert worked.after > worked.before + 1


def test_a_preset_of_a_broken_editor_does_not_stop_the_worker(worked: Worked) -> None:
    assert worked.published == ["own-mine"]
    said = "the editor 'broken' of dist-b 1.0 cannot be used: ZeroDivisionError"
    assert said in worked.log


def test_an_editor_that_cannot_be_imported_fails_its_edit_alone(worked: Worked) -> None:
    said = "the editor 'absent' of dist-c 1.0 cannot be used: ModuleNotFoundError"
    assert said in worked.refused
