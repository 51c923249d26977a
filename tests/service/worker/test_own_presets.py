"""Presets of the user's folder: published with the shipped ones, refused if they do not fit."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from random import Random
from string import ascii_letters

import pytest
from support import TINY_GPTJ
from support.service.edit_runner import edit_on

from jeep_core.errors import InvalidHParams
from jeep_core.models.loading import LoadedModel, load
from service.contracts.jobs import Job, JobKind, now
from service.settings import Settings
from service.store import Store
from service.worker.gate import Gate
from service.worker.kinds.edits import EditRunner
from service.worker.members.publishing import prepare
from service.worker.versions.views import VersionViews

MODEL = TINY_GPTJ
PRESET = """
editor: memit
model: someone/GPT-J-tiny
origin: by hand
hparams: {{n_steps: 2, n_prefixes: 1, low: {{layers: [{layer}], clamp: 1, moment_weight: 10}}}}
"""


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load(str(MODEL), device="cpu", dtype="float32")


@pytest.fixture
def settings(store: Store, tmp_path: Path) -> Settings:
    folder, corpus = tmp_path / "own", tmp_path / "corpus.txt"
    folder.mkdir()
    letters = Random(0)
    words = ("".join(letters.choices(ascii_letters, k=4)) for _ in range(4000))
    corpus.write_text("\n".join(" ".join(islice(words, 10)) for _ in range(400)))
    return Settings(store=store.root, presets=folder, corpus=corpus)


def test_own_presets_are_published_and_used_by_edits(
    base: LoadedModel, store: Store, settings: Settings
) -> None:
    """The worker is given complete hyper-parameters; the preset's file may be gone by then."""
    assert settings.presets is not None
    file = settings.presets / "mine.yaml"
    file.write_text(PRESET.format(layer=1))
    prepare(store, base, settings)
    info = store.base.info()
    assert info is not None
    assert info.presets == {"memit": ["mine"]}
    file.unlink()
    payload = {
        "edit_id": "edit_1",
        "facts": [{"subject": "Lyon", "prompt": "{} lies in", "target_new": "Peru"}],
        "editor": "memit",
        "preset": "mine",
        "hparams": info.preset_values["memit/mine"],
    }
    job = Job(id="job_1", kind=JobKind.EDIT, payload=payload, created_at=now())
    runner = EditRunner(base, store, VersionViews(base, store), settings, Gate(1.0))
    manifest, _ = edit_on(runner, job, "v0")
    assert manifest.preset == "mine"
    assert manifest.hparams["low"]["layers"] == [1]
    [layer] = manifest.result.layers
    assert layer.relative_norm > 0
    assert layer.residual_before is not None
    assert layer.residual_after is not None
    assert layer.residual_after < layer.residual_before
    assert layer.condition is not None
    assert layer.condition > 1


def test_an_own_preset_that_does_not_fit_its_model_is_refused_at_start(
    base: LoadedModel, store: Store, settings: Settings
) -> None:
    assert settings.presets is not None
    (settings.presets / "mine.yaml").write_text(PRESET.format(layer=99))
    with pytest.raises(InvalidHParams, match=r"preset mine/low/layers: layer 99 does not exist"):
        prepare(store, base, settings)
