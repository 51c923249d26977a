"""An editor of another distribution, of which no file of this project knows anything.

It is built here, installed beside the service, and found in everything that knows editors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.forks.command import jeep

from jeep_core import atlas
from jeep_core.suites import load_counterfact

PACKAGE = {
    "jeep_shove/__init__.py": '''
from pydantic import Field

from jeep_core.editors import EditorRecord
from jeep_core.editors.record import PlotStyle, Tuning
from jeep_core.spec.hparams import EditorHParams, no_such_layer


class ShoveHParams(EditorHParams):
    """Shove: one matrix towards the first token of the answer."""

    layer: int = Field(ge=0, description="The layer that is written")
    strength: float = Field(1.0, gt=0, description="Length of the step, in states")

    def layer_problems(self, n_layers):
        return [] if self.layer < n_layers else [no_such_layer("/layer", self.layer, n_layers)]


record = EditorRecord(
    hparams=ShoveHParams,
    editor="jeep_shove.editor:Shove",
    tuning=Tuning(depths=(0.8,), values={"strength": (0.5, 2.0)}, start={"strength": 1.5}),
    automatic=lambda found: {"layer": found["high"]["layers"][-1]},
    title="Shove!",
    order=7.5,
    plot=PlotStyle("#4b0082", "*", "-."),
)
''',
    "jeep_shove/editor.py": """
from jeep_core.editors.base import EditorOutcome, LayerUpdate
from jeep_core.models.delta import Update
from jeep_core.values.keys import keys_and_states


class Shove:
    def run(self, context, hparams):
        view, layer = context.view, hparams.layer
        rows = [fact.rows for fact in context.facts]
        keys, states = keys_and_states(view, rows, "prediction", layer, layer)
        head = view.model.get_output_embeddings().weight.float()
        towards = head[[fact[0].ids[fact[0].prediction + 1] for fact in rows]] - head.mean(dim=0)
        towards /= towards.norm(dim=1, keepdim=True)
        steps = hparams.strength * states.norm(dim=1, keepdim=True) * towards
        update = Update.of(steps.double().T, (keys / keys.square().sum(dim=1, keepdim=True)).T)
        name = view.base.family.weight_name(layer)
        view.update(name, update)
        context.report("shove", 1, 1)
        outcome = EditorOutcome()
        outcome.delta.updates[name] = update
        weight = view.base.model.get_parameter(name).double().norm()
        outcome.layers.append(
            LayerUpdate(name, layer, "high", float(update.matrix().norm() / weight))
        )
        return outcome
""",
    "jeep_shove-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: jeep-shove\nVersion: 1.0\n",
    "jeep_shove-1.0.dist-info/entry_points.txt": "[jeep.editors]\nshove = jeep_shove:record\n",
}
FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Japan"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the distribution, and with presets; processes find both."""
    folder = tmp_path_factory.mktemp("installed")
    for name, text in PACKAGE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    presets = folder / "presets"
    presets.mkdir()
    preset = {"editor": "shove", "model": "atlas-gptj", "origin": "test", "hparams": {"layer": 7}}
    (presets / "shove-atlas-gptj.yaml").write_text(yaml.safe_dump(preset))
    with pytest.MonkeyPatch.context() as patch:
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
        patch.setenv("PYTHONPATH", path)
        patch.setenv("JEEP_PRESETS", str(presets))
        yield folder


@pytest.fixture(scope="module")
def suite(installed: Path) -> Path:
    """Four cases of the bundled validation suite, whose facts the model knows."""
    source = atlas.SUITES["atlas-counterfact-validation"]
    records = json.loads(source.read_text(encoding="utf-8"))[:4]
    path = installed / "four.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    assert len(load_counterfact(str(path)).cases) == 4
    return path


def command(*arguments: object) -> str:
    """What a command of `jeep` says; it must succeed."""
    done = jeep(*map(str, arguments))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_service_knows_the_editor(
    installed: Path, suite: Path, start_anew: Callable[[], Any]
) -> None:
    """OpenAPI, edits with its preset, hyper-parameters or ``auto``, and trials."""
    serving = start_anew()
    http: httpx.Client = serving.http

    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    properties = schemas["EditRequest"]["properties"]
    assert "shove" in properties["editor"]["enum"]
    assert "`shove`: `ShoveHParams`" in properties["hparams"]["description"]
    assert (
        "`auto`, for `jeep`, `memit`, `pmet`, `rome`, `alphaedit`, `ft-wd`, `ultraedit`, "
        "`locft`, `crispedit`, `shove`" in properties["hparams"]["description"]
    )
    assert (
        "`ultraedit`, `locft`, `shove` need second moments" in properties["editor"]["description"]
    )
    assert "description" in schemas["ShoveHParams"]["properties"]["strength"]
    assert schemas["HypernetworkRequest"]["properties"]["editor"]["enum"] == ["mend", "malmen"]

    job = serving.client.edit([FACT], editor="shove", hparams={"strength": 2.0})
    done = serving.client.wait(job.id, timeout=120)
    assert done.status == "succeeded", done.error
    edit = http.get(f"/edits/{done.result['edit_id']}").json()
    assert (edit["editor"], edit["preset"]) == ("shove", "shove-atlas-gptj")
    assert edit["hparams"] == {"layer": 7, "strength": 2.0}

    asked = {"facts": [FACT], "editor": "shove", "hparams": "auto"}
    assert http.post("/edits?dry_run=true", json=asked).json()["hparams"] == "auto"
    refused = http.post("/edits", json={**asked, "editor": "mend"}).json()
    assert (
        "which are for jeep, memit, pmet, rome, alphaedit, ft-wd, ultraedit, locft, "
        "crispedit, shove:" in refused["errors"][0]["message"]
    )

    serving.client.add_suite("four", suite)
    trial = {"suite": "four", "editor": "shove", "n_edits": [0, 2], "fluency_texts": 0}
    job = http.post("/evaluations", json=trial)
    assert job.status_code == 202, job.text
    ended = serving.client.wait(job.json()["id"], timeout=120)
    assert ended.status == "succeeded", ended.error
    points = ended.result["points"]
    assert [point["n_edits"] for point in points] == [0, 2]
    assert points[1]["metrics"]["greedy"]["value"] > points[0]["metrics"]["greedy"]["value"]


def test_the_editor_is_tuned_as_its_record_says(
    installed: Path, suite: Path, tmp_path: Path
) -> None:
    out = tmp_path / "found.yaml"
    given = ("--model", "atlas-gptj", "--suite", suite, "--device", "cpu", "--out", out)
    said = command("tune", *given, "--editor", "shove", "--cases", 2, "--rounds", 1)
    for tried in ("start", "layer 7", "strength 0.5", "strength 2.0"):
        assert f" {tried}: " in said
    preset = yaml.safe_load(out.read_text())
    assert preset["editor"] == "shove"
    assert preset["hparams"]["layer"] == 7
    assert preset["hparams"]["strength"] in (0.5, 1.5, 2.0)


def test_the_report_draws_the_editor_as_its_record_says(
    installed: Path, suite: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    given = ("--model", "atlas-gptj", "--suite", suite, "--zsre", "-", "--edits", 2, "--jobs", 1)
    given += ("--device", "cpu", "--presets", installed / "presets", "--out", out)
    command("reproduce", *given, "--only", "comparison", "scaling", "--editors", "shove", "jeep")
    report = json.loads((out / "report.json").read_text())
    rows = [row["editor"] for row in report["experiments"]["comparison"]]
    assert rows == ["unedited", "shove", "jeep"]
    assert report["settings"]["shove"]["hparams"] == {"layer": 7, "strength": 1.0}
    curve = [(cell["edits"], cell["editor"]) for cell in report["experiments"]["scaling"]]
    assert curve == [(n, editor) for n in (1, 2) for editor in ("shove", "jeep")]
    drawn = (out / "scaling.svg").read_text()
    assert "#4b0082" in drawn
    assert "<!-- Shove! -->" in drawn
    assert "<!-- Shove! -->" in (out / "comparison.svg").read_text()
    assert "<td>shove</td>" in (out / "index.html").read_text()
