"""The result of an edit says of every figure how it came about, and commands show it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from support.service.edit_runner import FACT, MODEL, an_edit, edit_on, runner_on

from jeep_core.models.loading import LoadedModel, load
from service.cli import tables
from service.contracts.jobs import JobKind, JobStatus, Progress
from service.contracts.schemas import EditResult
from service.contracts.schemas.jobs import JobOut
from service.store import Store

FULL = {
    **FACT,
    "target_true": "Oslo",
    "neighborhood_prompts": ["Paris lies in"],
}
OWN = {"efficacy", "greedy_success"}


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load(str(MODEL), device="cpu", dtype="float32")


def result_of(base: LoadedModel, store: Store, folder: Path, **more: Any) -> EditResult:
    text = folder / "held-out.txt"
    text.write_text("The town of Lyon lies in France, and the river is wide.\n", encoding="utf-8")
    runner = runner_on(base, store, folder, perplexity_text=text, perplexity_tokens=16)
    first, _ = edit_on(runner, an_edit({**FACT, "subject": "Nice"}, number=9), "v0")
    store.head.move(first.id, expected="v0", job_id=None, fence=1, who="test", why="edit")
    manifest, _ = edit_on(runner, an_edit(FULL, **more), first.id)
    assert manifest.result is not None
    return manifest.result


def shown(what: RenderableType) -> str:
    console = Console(width=300)
    with console.capture() as found:
        console.print(what)
    return found.get()


def test_every_figure_of_a_result_has_one(base: LoadedModel, store: Store, tmp_path: Path) -> None:
    limits = {
        "min_efficacy": 0.0,
        "min_locality": 0.0,
        "max_perplexity_ratio": 1e9,
        "max_drift": 1e9,
    }
    result = result_of(base, store, tmp_path, guards=limits)
    figures = {name for name in EditResult.model_fields if name in OWN}
    guarded = {"efficacy", "success", "locality", "perplexity", "drift"}
    assert set(result.protocols) == (
        figures
        | {"probability", "target_probability", "earlier"}
        | {f"guards.{n}" for n in guarded}
    )
    assert "first 16 tokens of held-out.txt" in result.protocols["guards.drift"].how
    assert "all 1 live fact of earlier batches" in result.protocols["earlier"].asked


def test_without_guards_there_are_none_of_them(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    found = result_of(base, store, tmp_path).protocols
    assert not any(name.startswith("guards.") for name in found)
    assert "chat_efficacy" not in found


def test_a_job_is_shown_with_its_figures_and_how_they_came_about(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    result = result_of(base, store, tmp_path)
    job = JobOut(
        id="job_1", kind=JobKind.EDIT, status=JobStatus.SUCCEEDED, progress=Progress(),
        created_at=datetime.now(UTC), result=result.model_dump(mode="json"), resource_id="edit_1",
        attempt=1,
    )  # fmt: skip
    said = shown(tables.job(job))
    assert f"{result.parent} → {result.version}" in said
    assert result.protocols["efficacy"].judged in said.replace("\n", "")
    assert "Compare with: " in said
    before = job.model_copy(update={"status": JobStatus.RUNNING, "result": None})
    assert "Compare with" not in shown(tables.job(before))
