"""Jobs of a worker whose model lies on several devices (``JEEP_DEVICE=0@cuda:0,1@cuda:1``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.library.exported import edited, loaded
from support.library.logical_devices import logical_devices
from support.service.edit_runner import MODEL, an_edit, edit_on, give_moments, runner_and_views
from support.service.outward.export_bench import ExportBench

from jeep_core.decoding.generation import Sampling, generate
from jeep_core.models.loading import LoadedModel, load, tensor_sha256
from service.contracts.schemas import Manifest
from service.settings import Settings
from service.store import Store
from service.worker.members.publishing import publish
from service.worker.versions import rebuild, tensors
from service.worker.versions.views import VersionViews

PROMPTS = ("Lyon lies in", "The river is")
OSLO = {"subject": "Oslo", "prompt": "{} lies in", "target_new": "Japan"}


@pytest.fixture(autouse=True)
def _devices() -> Iterator[None]:
    with logical_devices():
        yield


def alternating(layers: int) -> str:
    """Neighbouring blocks on two devices, and the ends on a third one."""
    return ",".join(["ends@cpu:1", *(f"{i}@cpu:{2 + i % 2}" for i in range(layers))])


def said(views: VersionViews, version: str) -> list[str]:
    return [one.text for one in generate(views.get(version), PROMPTS, Sampling(4))]


def two_edits(base: LoadedModel, store: Store, folder: Path) -> tuple[list[Manifest], list[Any]]:
    """Two versions on top of one another, with what base and both say."""
    give_moments(base, store, folder)
    runner = runner_and_views(base, store, check_earlier=1)[0]
    manifests = []
    for number, facts in enumerate([(), (OSLO,)]):
        job = an_edit(*facts, number=number + 1)
        head = store.head.read().version
        manifest, view = edit_on(runner, job, head)
        assert view.weights_sha256() == manifest.weights_sha256
        store.head.move(manifest.id, expected=head, job_id=None, fence=1, who="test", why="edit")
        manifests.append(manifest)
    fresh = VersionViews(base, store)
    return manifests, [said(fresh, version) for version in ("v0", *(m.id for m in manifests))]


def test_edits_follow_one_another_and_are_rebuilt_and_rolled_back(tmp_path: Path) -> None:
    plain = load(str(MODEL), device="cpu", dtype="float32")
    split = load(str(MODEL), device=alternating(plain.n_layers), dtype="float32")
    assert split.model_hash == plain.model_hash
    found = []
    for name, base in (("plain", plain), ("split", split)):
        (tmp_path / name).mkdir()
        store = Store.open(tmp_path / name / "store")
        found.append((store, *two_edits(base, store, tmp_path / name)))
    (_, expected, answers), (store, manifests, again) = found
    assert again == answers
    assert split.weights_sha256 == plain.weights_sha256
    for mine, theirs in zip(manifests, expected, strict=True):
        assert [ref.name for ref in mine.tensors] == [ref.name for ref in theirs.tensors]
        for ref, other in zip(mine.tensors, theirs.tensors, strict=True):
            a, b = tensors.get(store, ref), tensors.get(found[0][0], other)
            assert (a - b).norm() <= 1e-5 * b.norm()
    # on either layout, whichever made them
    for base in (split, plain):
        made = rebuild.rebuild(base, store, manifests[-1], manifests[-1].tensors)
        for ref in manifests[-1].tensors:
            assert tensor_sha256(made[ref.name]) == ref.sha256


def test_the_published_model_says_where_its_blocks_are(tmp_path: Path) -> None:
    base = load(str(MODEL), device=alternating(6), dtype="float32")
    store = Store.open(tmp_path / "store")
    publish(store, base, Settings(store=store.root, model=str(MODEL)))
    info = store.base.info()
    assert info is not None
    assert info.device == alternating(6)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("format", ["merged", "peft"])
def test_a_version_is_exported_and_proven(tmp_path: Path, format: str) -> None:
    loaded(tmp_path / "model", "llama")
    base = load(str(tmp_path / "model"), device=alternating(4), dtype="float32")
    bench = ExportBench(tmp_path / "store", base, edited(base))
    job = bench.job(format)
    result = bench.run(job)
    assert result.proof.ok
    assert result.proof.hold == result.proof.hold_in_version
    if format == "merged":
        there = load(str(bench.folder(job)), device="cpu", dtype="float32")
        assert there.weights_sha256 == bench.view.weights_sha256()
