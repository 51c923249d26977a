"""Probe jobs and automatic hyper-parameters, on a model whose answers were planted by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from support import pictures
from support.library import planted

from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.errors import Cancelled
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.probe.defaults import choose as choosing
from jeep_core.probe.defaults import knowledge
from jeep_core.probe.defaults.from_record import Chosen, by_depths
from jeep_core.probe.defaults.kept import kept
from service.contracts.jobs import Job, JobKind, Progress, new_id, now
from service.contracts.schemas import FactRecord, Manifest, ProbePayload, ProbeResult
from service.contracts.schemas.probe import TableFactIn
from service.settings import Settings
from service.store import Store
from service.worker.editing.automatic import automatic_hparams
from service.worker.kinds import probes
from service.worker.lanes.control import JobControl
from service.worker.lanes.read_lane import ReadControl, Task
from service.worker.moments import SharedMoments
from service.worker.versions import tensors
from service.worker.versions.views import VersionViews

PLOTS = {"answers", "answers-no-norm", "branches", "patching"}
FACTS = planted.facts()
RECORDS = [FactRecord.model_validate(asdict(fact)) for fact in FACTS]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return planted.model("llama", 2, 5)


class Bench:
    """A store of the planted model, and a way to run jobs in it."""

    def __init__(self, root: Path, base: LoadedModel) -> None:
        self.base, self.store = base, Store.open(root)
        self.store.create_base(base.weights_sha256)
        self.settings = Settings(store=root)
        self.told: list[Progress] = []

    def job(self, **payload: Any) -> Job:
        job_id = new_id("job")
        given = {"probe_id": "probe_" + job_id[4:], "version": "v0", "limit": 64, "seed": 0}
        filled = ProbePayload.model_validate({"facts": RECORDS, **given, **payload})
        values = filled.model_dump(mode="json")
        job = Job(id=job_id, kind=JobKind.PROBE, payload=values, created_at=now())
        self.store.journal.add(job)
        return job

    def run(self, job: Job, pause: Callable[[], None] = lambda: None) -> ProbeResult:
        control = ReadControl(
            publish=self.told.append, checkpoint=lambda: None, pause=pause, give_way=lambda: None
        )
        views, work = VersionViews(self.base, self.store), self.store.drafts.work_folder(job.id)
        moments = SharedMoments(self.base, self.store, self.settings)
        return probes.run(
            Task(job, control, self.base, views, self.store, self.settings, work, moments)
        )

    def kept(self) -> dict[str, Any] | None:
        return kept(self.store.base.probes_folder, self.base.model_hash)


@pytest.fixture
def rendering(tmp_path: Path, model: LoadedModel) -> Bench:
    return Bench(tmp_path / "store", model)


@pytest.fixture
def bench(rendering: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """One whose pictures nobody looks at."""
    pictures.not_rendered(monkeypatch)
    return rendering


def control(told: list[Progress] | None = None) -> JobControl:
    found = [] if told is None else told
    return JobControl(publish=found.append, checkpoint=lambda: None)


class TestProbeJobs:
    def test_the_base_model_s_probe_is_kept_for_later_edits(self, rendering: Bench) -> None:
        bench = rendering
        job = bench.job()
        result = bench.run(job)
        assert (result.low, result.high, result.automatic) == ([1, 2], [5], True)
        assert result.prompts == len(FACTS)
        record = bench.kept()
        assert record is not None
        assert (record["hparams"], record["rule"]) == (result.hparams, result.rule)
        folder = bench.store.reports.folder(job.id)
        assert json.loads((folder / "probe.json").read_text()) == record
        assert set(result.files) == {path.name for path in folder.iterdir()}
        assert {Path(name).stem for name in result.files} == {"probe", *PLOTS}
        assert (folder / "answers.png").read_bytes().startswith(b"\x89PNG")
        assert [progress.phase for progress in bench.told][-1] == "draw"

    def test_a_quick_probe_proposes_the_same_layers(self, bench: Bench, tmp_path: Path) -> None:
        text = tmp_path / "text.txt"
        text.write_text("name0 lives in home0\n")
        bench.settings = Settings(store=bench.store.root, corpus=text)
        result = bench.run(bench.job(quick=True))
        assert (result.low, result.high, result.automatic) == ([1, 2], [5], True)
        assert {Path(name).stem for name in result.files} == {"probe", "branches", "patching"}
        record = bench.kept()
        assert record is not None
        assert (record["quick"], record["word_sets"]) == (True, None)
        assert record["patching"]["restoration"] is None

    def test_an_edited_version_s_probe_is_not_kept(self, bench: Bench) -> None:
        name = bench.base.family.weight_name(5)
        silent = torch.zeros_like(bench.base.model.get_parameter(name))
        view = ModelView(bench.base, {name: silent})
        version = bench.store.versions.new_id()
        refs = [tensors.put(bench.store, name, silent)]
        bench.store.versions.write(
            Manifest(
                id=version, parent="v0", tensors=refs,
                weights_sha256=view.weights_sha256(), created_at=now(),
            )
        )  # fmt: skip
        result = bench.run(bench.job(version=version))
        assert result.hparams is None  # its answers appear at no layer
        assert "no layers to propose" in str(result.why_no_proposal)
        assert (result.automatic, bench.kept()) == (False, None)

    def test_words_are_followed_where_there_is_a_text(self, bench: Bench, tmp_path: Path) -> None:
        text = tmp_path / "text.txt"
        text.write_text("name0 lives in home0\nthe home of name1 is home1\n")
        bench.settings = Settings(store=bench.store.root, corpus=text)
        table = [TableFactIn(subject="name0", relation="lives", object="home0")]
        job = bench.job(table=table)
        assert "word-sets.png" in bench.run(job).files
        record = json.loads((bench.store.reports.folder(job.id) / "probe.json").read_text())
        assert record["word_sets"]["prompts_without_facts"] == len(FACTS) - 2

    def test_a_cancelled_probe_ends_and_keeps_nothing(self, bench: Bench) -> None:
        def cancelled() -> None:
            raise Cancelled("cancelled on request")

        with pytest.raises(Cancelled):
            bench.run(bench.job(), cancelled)
        assert bench.kept() is None

    def test_without_facts_general_knowledge_is_asked(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(knowledge, "general_knowledge", lambda: tuple(FACTS))
        job = bench.job(facts=None)
        result = bench.run(job)
        assert (result.low, result.high) == ([1, 2], [5])
        record = json.loads((bench.store.reports.folder(job.id) / "probe.json").read_text())
        assert record["suite"] == "general knowledge"


class TestAutomatic:
    def test_a_kept_probe_is_followed_and_nothing_is_run(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        result = bench.run(bench.job())
        monkeypatch.delattr(choosing, "probe")
        jeep, source = chosen_for(bench, "jeep")
        assert result.hparams is not None
        assert isinstance(jeep.hparams, JeepHParams)
        assert jeep.source == "kept probe"
        assert list(jeep.hparams.low.layers) == result.hparams["low"]["layers"]
        assert (list(jeep.hparams.high.layers), jeep.hparams.n_steps) == ([5], 30)
        memit, other = chosen_for(bench, "memit", {"n_steps": 9, "low": {"clamp": 3}})
        assert isinstance(memit.hparams, MemitHParams)
        assert memit.hparams.low.layers == jeep.hparams.low.layers
        assert (memit.hparams.n_steps, memit.hparams.low.clamp) == (9, 3)
        assert source == other

    def test_without_one_the_model_is_probed_on_what_it_knows_and_the_probe_kept(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(knowledge, "general_knowledge", lambda: tuple(FACTS))
        told: list[Progress] = []
        first, source = chosen_for(bench, "jeep", told=told)
        assert isinstance(first.hparams, JeepHParams)
        assert (list(first.hparams.low.layers), list(first.hparams.high.layers)) == ([1, 2], [5])
        assert (first.source, first.warnings) == ("probe now", ())
        assert {progress.phase for progress in told} == {"probe"}
        kept = bench.kept()
        assert kept is not None
        assert kept["suite"] == "general knowledge"
        again, other = chosen_for(bench, "jeep")
        assert (again.hparams, again.source, other) == (first.hparams, "kept probe", source)

    def test_a_model_that_knows_nothing_is_edited_by_depth_and_says_so(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The planted model knows none of the shipped facts, so no prompt can be probed."""
        chosen, _ = chosen_for(bench, "jeep")
        assert isinstance(chosen.hparams, JeepHParams)
        n_layers = bench.base.n_layers
        expected = by_depths("jeep", n_layers, bench.base.mlp_size, {})
        assert (chosen.hparams, chosen.source) == (expected, "depths")
        assert "POST /probes" in chosen.warnings[0]
        monkeypatch.delattr(choosing, "default_probe")
        assert chosen_for(bench, "jeep")[0] == chosen, "the failed probe is kept, not repeated"

    def test_a_cancelled_probe_is_no_failed_probe(self, bench: Bench) -> None:
        def stop() -> None:
            raise Cancelled("cancelled on request")

        stopping = JobControl(publish=lambda progress: None, checkpoint=stop)
        with pytest.raises(Cancelled):
            automatic_hparams(bench.store, bench.base, "jeep", {}, stopping.monitor)
        assert bench.kept() is None


def chosen_for(
    bench: Bench,
    editor: str,
    changes: dict[str, Any] | None = None,
    told: list[Progress] | None = None,
) -> tuple[Chosen, str]:
    monitor = control(told).monitor
    return automatic_hparams(bench.store, bench.base, editor, changes or {}, monitor)
