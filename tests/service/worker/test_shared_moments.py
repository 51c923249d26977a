"""One memory of second moments for the edit lane and the read lane."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.service.edit_runner import (
    FACT,
    HPARAMS,
    LAYERS,
    MODEL,
    an_edit,
    edit_on,
    give_moments,
)

from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.evaluation.trials import Trials
from jeep_core.models.loading import LoadedModel, load
from jeep_core.moments.cache import Moments
from jeep_core.moments.kept_moment import KeptMoment
from jeep_core.spec.facts import Fact
from service.settings import Settings
from service.store import Store
from service.worker.gate import Gate
from service.worker.kinds.edits import EditRunner
from service.worker.moments import SharedMoments
from service.worker.versions.views import VersionViews

CASE = Fact(FACT["subject"], FACT["prompt"], FACT["target_new"])
OTHER = {**FACT, "subject": "Nice"}


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load(str(MODEL), device="cpu", dtype="float32")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layers whose factor was made, in order."""
    found: list[str] = []
    make = KeptMoment._make

    def noted(self: KeptMoment, dtype: torch.dtype) -> torch.Tensor:
        found.append(self.name)
        return make(self, dtype)

    monkeypatch.setattr(KeptMoment, "_make", noted)
    return found


class Process:
    """What one worker process has: a store, an edit lane, moments for trials."""

    def __init__(self, base: LoadedModel, root: Path) -> None:
        self.base, self.store = base, Store.open(root / "store")
        give_moments(base, self.store, root)
        settings = Settings(
            store=self.store.root, model=str(MODEL), moments="wikipedia", factor_memory_mb=64
        )
        self.shared = SharedMoments(base, self.store, settings)
        views = VersionViews(base, self.store)
        self.runner = EditRunner(base, self.store, views, settings, Gate(1.0), self.shared)

    def edit(self, number: int) -> dict[str, str]:
        """The tensors of a version by name."""
        fact = FACT if number == 1 else OTHER
        manifest, _ = edit_on(self.runner, an_edit(fact, number=number), "v0")
        return {ref.name: ref.sha256 for ref in manifest.tensors}

    def trial(self) -> dict[str, torch.Tensor]:
        """The weights that a trial's edit replaces."""
        trials = Trials(self.base, [CASE], self.shared.for_user(), [""])
        view, _ = trials.edit("memit", MemitHParams.model_validate(HPARAMS), [0])
        return dict(view.replaced)


def test_a_factor_that_an_edit_has_made_serves_a_trial(
    base: LoadedModel, tmp_path: Path, made: list[str]
) -> None:
    process = Process(base, tmp_path)
    process.edit(1)
    assert made == [f"layer {layer}" for layer in LAYERS]
    process.trial()
    process.edit(2)
    process.trial()
    assert made == [f"layer {layer}" for layer in LAYERS]


def test_sharing_changes_no_bit(base: LoadedModel, tmp_path: Path) -> None:
    """Edits and trials by turns, against each of them in a process of its own."""
    for name in "abcd":
        (tmp_path / name).mkdir()
    together = Process(base, tmp_path / "a")
    first, trial, second = together.edit(1), together.trial(), together.edit(2)
    assert first == Process(base, tmp_path / "b").edit(1)
    assert second == Process(base, tmp_path / "c").edit(2)
    alone = Process(base, tmp_path / "d").trial()
    assert trial.keys() == alone.keys()
    assert all(torch.equal(trial[name], alone[name]) for name in trial)


def test_the_text_is_read_once_and_only_if_it_is_needed(
    base: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "corpus.txt"
    text.write_text("one two three\n")
    settings = Settings(store=tmp_path / "store", model=str(MODEL), corpus=text)
    shared = SharedMoments(base, Store.open(tmp_path / "store"), settings)
    text.unlink()
    assert shared.for_none().texts == []
    text.write_text("one two three\n")
    first = shared.for_user()
    text.unlink()
    second = shared.for_user()
    assert isinstance(second, Moments)
    assert first is not second
    assert first.texts is second.texts
    assert first.memory is second.memory
