"""One edit job's own part: settings of the second moments, and remaining times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jeep_core.loading import LoadedModel, load
from jeep_core.published import Imported
from service.jobs import Job, JobKind, Progress, now
from service.settings import Settings
from service.store import Store
from service.worker import edits
from service.worker.edits import EditRunner, JobControl
from service.worker.gate import Gate
from service.worker.versions import VersionViews

MODEL = Path(__file__).parents[1] / "jeep_core" / "golden" / "gpt-j-tiny"
HPARAMS = {
    "low": {
        "layers": [0, 1],
        "clamp": 1.0,
        "weight_decay": 0.5,
        "moment_weight": 10.0,
        "spread": "linear",
    },
    "n_steps": 2,
    "learning_rate": 0.5,
    "kl_weight": 0.06,
    "n_prefixes": 1,
}
FACT = {"subject": "Lyon", "prompt": "{} lies in", "target_new": "Peru"}


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load(str(MODEL), device="cpu", dtype="float32")


def job() -> Job:
    payload = {
        "edit_id": "edit_1",
        "facts": [FACT],
        "editor": "memit",
        "preset": None,
        "hparams": HPARAMS,
    }
    return Job(id="job_1", kind=JobKind.EDIT, payload=payload, created_at=now())


def control() -> JobControl:
    return JobControl(publish=lambda progress: None, checkpoint=lambda: None)


def test_imported_moments_stand_in_for_a_corpus(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    store.bind_model(base.model_hash)
    store.create_base(base.weights_sha256)
    imported = Imported(store.base_file("moments"), "wikipedia")
    keys = np.random.default_rng(0).normal(size=(400, base.mlp_size)).astype("float32")
    for layer in (0, 1):
        path = tmp_path / f"transformer.h.{layer}.mlp.fc_out_float32_mom2_100.npz"
        np.savez(path, **{"mom2.count": 400, "mom2.mom2": keys.T @ keys})
        imported.add(base, path)
    settings = Settings(model=str(MODEL), moments="wikipedia", factor_memory_mb=1)
    runner = EditRunner(base, store, VersionViews(base, store), settings, Gate(settings.edit_share))
    manifest, _ = runner.run(job(), "v0", control())
    assert manifest.inputs["moment.0"] == imported.key(base, 0)
    assert manifest.inputs["moment.1"] == imported.key(base, 1)


def test_the_remaining_time_leaves_out_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A resumed pass: 800 of 1,000 were there, then 100 took ten seconds."""
    clock = iter([100.0, 110.0, 120.0, 130.0])
    monkeypatch.setattr(edits.time, "monotonic", lambda: next(clock))
    told: list[Progress] = []
    control = JobControl(publish=told.append, checkpoint=lambda: None)
    control.progress("moments", 800, 1000)
    control.progress("moments", 900, 1000)
    control.progress("optimise", 0, 10)
    control.progress("optimise", 5, 10)
    assert [progress.eta_seconds for progress in told] == [None, 10.0, None, 10.0]
