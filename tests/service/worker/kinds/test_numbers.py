"""Values that are not finite fail by name and leave nothing: edits, records, evaluations."""

from __future__ import annotations

from io import StringIO
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from redis import Redis
from rich.console import Console
from support.service.edit_runner import FACT, HPARAMS, MODEL, an_edit, control, edit_on, runner_on
from support.service.played_worker.jobs import edit_job
from support.service.played_worker.worker import PlayedWorker

from jeep_core.editors.ft_wd import editor as ft_wd
from jeep_core.errors import NumericalError
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from service.cli import tables
from service.contracts.jobs import JobStatus, now
from service.contracts.schemas import Answer, Edit, EditResult, FactOutcome, LayerReport, Manifest
from service.store import Store
from service.store.files import encode
from service.store.index.line import Line
from service.store.maintenance.sweep import sweep_orphans
from service.worker.editing import records as records_module
from service.worker.editing.outcome_warnings import LARGE_CHANGE, outcome_warnings
from service.worker.kinds import edits as edits_module
from service.worker.kinds.reverts import Reverter
from service.worker.partial_results import Records, write_lines
from service.worker.versions import tensors as worker_tensors

TUNING = {"layer": 1, "n_steps": 2, "stop_loss": 1e-9}
WEIGHT = "transformer.h.1.mlp.fc_out.weight"


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load(str(MODEL), device="cpu", dtype="float32")


def untouched(store: Store) -> bool:
    """Whether there is no new version, tensor or move of head."""
    files = [*(store.root / "tensors").glob("*/*"), *(store.root / "staging").iterdir()]
    versions = [path.name for path in (store.root / "versions").iterdir()]
    return not files and versions == ["v0"] and store.head.read().version == "v0"


# ---------------------------------------------------------------- edits


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_an_edit_with_a_rate_far_too_large_leaves_nothing(
    base: LoadedModel, store: Store, tmp_path: Path, rate: float
) -> None:
    runner = runner_on(base, store, tmp_path)
    job = an_edit(editor="ft-wd", hparams={**TUNING, "learning_rate": rate})
    with pytest.raises(
        NumericalError, match=r"(not finite|beyond float32).*(learning_rate|another version)"
    ):
        edit_on(runner, job, "v0")
    assert untouched(store)


def test_weights_that_float16_cannot_hold_leave_nothing(store: Store, tmp_path: Path) -> None:
    half = load(str(MODEL), device="cpu", dtype="float16")
    runner = runner_on(half, store, tmp_path)
    job = an_edit(editor="ft-wd", hparams={**TUNING, "learning_rate": 1e5})
    with pytest.raises(NumericalError, match=r"(layer 1|h\.1\.)"):
        edit_on(runner, job, "v0")
    assert untouched(store)


@pytest.mark.parametrize("field", ["relative_norm", "condition", "residual_before"])
def test_figures_are_checked_before_a_tensor_is_stored(
    base: LoadedModel,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    field: str,
) -> None:
    """For example a figure that has no check of its own."""

    def report(**figures: Any) -> LayerReport:
        return LayerReport(**{**figures, field: nan})

    monkeypatch.setattr(records_module, "LayerReport", report)
    runner = runner_on(base, store, tmp_path)
    with pytest.raises(NumericalError, match=rf"the figure /layers/0/{field} is not finite"):
        edit_on(runner, an_edit(), "v0")
    assert untouched(store)


def test_an_edit_on_a_version_that_is_not_finite_leaves_nothing(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    """Such a version was written by an earlier release; the base of it still can be edited."""
    runner = runner_on(base, store, tmp_path)
    weight = base.model.get_parameter(WEIGHT).clone()
    weight[0, 0] = inf
    view = ModelView(base, {WEIGHT: weight})
    given = {"parent": "v0", "weights_sha256": view.weights_sha256(), "created_at": now()}
    store.versions.write(
        Manifest(id="v1", tensors=[worker_tensors.put(store, WEIGHT, weight)], **given)
    )
    store.head.move("v1", expected="v0", job_id=None, fence=1, who="test", why="edit")
    with pytest.raises(NumericalError, match="use another version"):
        edit_on(runner, an_edit(), "v1")
    assert [version.id for version in store.versions.all()] == ["v1", "v0"]


def test_a_revert_that_is_not_finite_leaves_nothing(
    base: LoadedModel, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_on(base, store, tmp_path)
    for number in (1, 2):
        head = store.head.read().version
        fact = {**FACT, "subject": f"Lyon {number}"}
        made, _ = edit_on(runner, an_edit(fact, number=number), head)
        store.head.move(made.id, expected=head, job_id=None, fence=1, who="test", why="edit")
    before = sorted(path.name for path in (store.root / "tensors").glob("*/*"))
    monkeypatch.setattr(edits_module.measuring, "efficacy", lambda said: nan)
    job = an_edit(number=3).model_copy(update={"base_version": "v2"})
    later = store.versions.lineage("v2")[2:]
    with pytest.raises(NumericalError, match="/efficacy"):
        Reverter(store, runner).run(job, Line(store, "v0"), later, control())
    assert [version.id for version in store.versions.all()] == ["v2", "v1", "v0"]
    assert store.drafts.of_job(job.id) == []
    sweep_orphans(store)  # as after every job that failed: tensors were stored while it measured
    assert sorted(path.name for path in (store.root / "tensors").glob("*/*")) == before


# ---------------------------------------------------------------- warnings


def summary(efficacy: float, *norms: float, **more: Any) -> EditResult:
    given = {"residual_before": None, "residual_after": None, "condition": None}
    layers = [
        LayerReport(name=f"w{i}", layer=i, region="low", relative_norm=norm, **given)
        for i, norm in enumerate(norms)
    ]
    return EditResult(
        **{"facts": [], "greedy_success": efficacy, **more},
        edit_id="edit_1", version="v1", parent="v0", efficacy=efficacy, layers=layers, seconds={},
    )  # fmt: skip


def written(plain: bool, chat: bool | None) -> FactOutcome:
    said = [Answer(p_new=0.6, p_true=0.1, text="", writes_new=bool(one)) for one in (plain, chat)]
    return FactOutcome(
        index=0, subject="Lyon", prompt="{} is in", target_new="Peru", before=said[0],
        after=said[0], chat_before=None if chat is None else said[1],
        chat_after=None if chat is None else said[1], success=plain and chat is not False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ways", "where"),
    [
        ([(False, None)], "took (greedy success 0, efficacy 1)"),
        ([(True, False)], "took in a chat (greedy success 0, efficacy 1, in a chat 1)"),
        ([(False, True)], "took on the plain prompt (greedy"),
        ([(True, False), (False, True)], "took in both ways of asking (greedy"),
        ([(False, False)], "took, neither on the plain prompt nor in a chat (greedy"),
        ([(True, True), (True, False)], None),
    ],
)
def test_an_edit_that_nobody_reads_warns_although_probabilities_say_otherwise(
    ways: list[tuple[bool, bool | None]], where: str | None
) -> None:
    facts = [written(*way) for way in ways]
    success = sum(one.success for one in facts) / len(facts)
    chat = None if ways[0][1] is None else 1.0
    result = summary(1.0, 0.1, facts=facts, greedy_success=success, chat_efficacy=chat)
    found = outcome_warnings(result)
    assert len(found) == (where is not None)
    assert where is None or where in found[0]


def test_an_answer_that_is_improbable_in_every_chat_warns() -> None:
    [found] = outcome_warnings(summary(1.0, 0.1, greedy_success=0.5, chat_efficacy=0.0))
    assert "in a chat 0" in found


def test_a_result_warns_of_what_succeeded_in_name_only() -> None:
    assert outcome_warnings(summary(0.5, 31.1, LARGE_CHANGE - 1)) == []
    [none] = outcome_warnings(summary(0.0, 0.1))
    assert "no fact of this edit took (efficacy 0)" in none
    [large] = outcome_warnings(summary(1.0, 0.1, 12345.6))
    assert large.startswith("layer 1 (w1): the change is 1.23e+04 times as large as the weights")


def test_an_edit_without_effect_says_so(base: LoadedModel, store: Store, tmp_path: Path) -> None:
    runner = runner_on(base, store, tmp_path)
    weak = {**HPARAMS, "learning_rate": 1e-6}
    made, _ = edit_on(runner, an_edit(hparams=weak), "v0")
    assert made.result is not None
    assert made.result.efficacy == 0.0
    assert any("efficacy 0" in warning for warning in made.result.warnings)


def test_an_enormous_change_says_so(
    base: LoadedModel, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random change of this size still gives finite numbers."""

    def tune(context: Any, hparams: Any, start: Any, delta: torch.Tensor) -> None:
        with torch.no_grad():
            delta.copy_(start * 1000)

    monkeypatch.setattr(ft_wd, "_tune", tune)
    runner = runner_on(base, store, tmp_path)
    made, _ = edit_on(runner, an_edit(editor="ft-wd", hparams=TUNING), "v0")
    assert made.result is not None
    assert any("is 1e+03 times as large" in warning for warning in made.result.warnings)


# ---------------------------------------------------------------- records and results


class Figures(BaseModel):
    named: dict[str, Any]


def test_no_record_is_written_with_figures_that_are_not_finite(
    store: Store, tmp_path: Path
) -> None:
    """JSON would hold null for it, which could not be read back."""
    with pytest.raises(NumericalError, match=r"^figures: the figure /named/a/0 is not finite"):
        encode(Figures(named={"a": [nan]}))
    assert encode(Figures(named={"a": ["NaN", None, 1.5]})).startswith(b'{"named"')
    path = tmp_path / "lines.jsonl"
    for write in (lambda rows: Records(path).append(rows), lambda rows: write_lines(path, rows)):
        with pytest.raises(NumericalError, match="/value"):
            write([{"value": inf}])
        assert not path.exists() or path.read_bytes() == b""


def test_a_job_with_a_result_that_is_not_finite_names_the_figure(
    client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = edit_job(based)
    worker = PlayedWorker(client, based.root)
    monkeypatch.setattr("service.worker.kinds.edits._run", lambda *_: summary(nan))
    worker.work()
    ended = based.journal.read(job.id)
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert ended.error.code == "numerical_error"
    assert "the figure /efficacy is not finite" in ended.error.message
    assert ended.result is None


def test_the_command_shows_the_efficacy_in_a_chat() -> None:
    answer = Edit(
        id="edit_1", job_id="job_1", status=JobStatus.SUCCEEDED, editor="memit", preset=None,
        hparams={}, facts=[], created_at=now(), result=summary(0.75, 0.1, chat_efficacy=0.25),
    )  # fmt: skip
    console = Console(width=300, record=True, file=StringIO())
    console.print(tables.edit(answer))
    assert "efficacy 75.0% (in a chat 25.0%), greedy success 75.0%" in console.export_text()


def test_the_command_shows_the_warnings() -> None:
    result = summary(0.0, 0.1)
    answer = Edit(
        id="edit_1", job_id="job_1", status=JobStatus.SUCCEEDED, editor="memit", preset=None,
        hparams={}, facts=[], created_at=now(),
        result=result.model_copy(update={"warnings": outcome_warnings(result)}),
    )  # fmt: skip
    console = Console(width=300, record=True, file=StringIO())
    console.print(tables.edit(answer))
    assert "no fact of this edit took (efficacy 0)" in console.export_text()
