"""One edit job's own part: settings of the second moments, and remaining times."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.service.edit_runner import MODEL, an_edit, control, runner_on

from jeep_core.errors import MissingMoments
from jeep_core.models.loading import LoadedModel, load
from jeep_core.moments.published import Imported
from service.contracts.jobs import Progress
from service.contracts.schemas import Manifest
from service.store import Store
from service.worker.lanes import control as control_module
from service.worker.lanes.control import JobControl


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load(str(MODEL), device="cpu", dtype="float32")


def test_imported_moments_stand_in_for_a_corpus(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    runner = runner_on(base, store, tmp_path)
    imported = Imported(store.base.moments_folder, "wikipedia")
    manifest, _ = runner.run(an_edit(), "v0", control())
    assert manifest.inputs["moment.0"] == imported.key(base, 0)
    assert manifest.inputs["moment.1"] == imported.key(base, 1)


def test_a_layer_that_was_not_imported_is_named(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    runner = runner_on(base, store, tmp_path)
    Imported(store.base.moments_folder, "wikipedia").path(base, 1).unlink()
    with pytest.raises(MissingMoments, match=r"layer 1 .* jeep moments import --name wikipedia"):
        runner.run(an_edit(), "v0", control())


def test_a_fact_of_an_older_store_is_applied_again_as_it_was(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    """It has no ``join``, and its target was put after a blank, whatever script it is in."""
    runner = runner_on(base, store, tmp_path)
    old = {"subject": "Lyon", "prompt": "{} lies in", "target_new": "東京"}
    first, _ = runner.run(an_edit(old), "v0", control())
    again = runner.reapply(
        an_edit(old, number=2), first, [store.versions.read("v0")], "v0", control()
    )
    assert again.weights_sha256 == first.weights_sha256
    said = {
        join: runner.run(an_edit({**old, "join": join}, number=i), "v0", control())[0]
        for i, join in enumerate(("space", "auto", "none"), start=3)
    }
    assert said["space"].weights_sha256 == first.weights_sha256
    assert said["auto"].weights_sha256 == said["none"].weights_sha256
    assert said["auto"].weights_sha256 != first.weights_sha256
    assert [version.facts[0].join for version in said.values()] == list(said)
    [kept] = Manifest.model_validate_json(said["auto"].model_dump_json()).facts
    assert kept.join == "auto"


def test_the_remaining_time_leaves_out_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A resumed pass: 800 of 1,000 were there, then 100 took ten seconds."""
    clock = iter([100.0, 110.0, 120.0, 130.0])
    monkeypatch.setattr(control_module.time, "monotonic", lambda: next(clock))
    told: list[Progress] = []
    control = JobControl(publish=told.append, checkpoint=lambda: None)
    control.progress("moments", 800, 1000)
    control.progress("moments", 900, 1000)
    control.progress("optimise", 0, 10)
    control.progress("optimise", 5, 10)
    assert [progress.eta_seconds for progress in told] == [None, 10.0, None, 10.0]
