"""Export jobs: what is written, how it is proven, and what is left when it ends early."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.library.exported import LAYERS, edited, factored, loaded

from jeep_core.errors import Cancelled, NotExportable, RankTooHigh
from jeep_core.exports.folders import RECORD, verify
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from service.contracts.jobs import Job, JobKind, JobStatus, Progress, new_id, now
from service.contracts.schemas import FactRecord, Manifest, TensorRef
from service.contracts.schemas.exports import ExportPayload, ExportResult
from service.settings import Settings
from service.store import DiskFull, Store, StoreFull
from service.store.maintenance.sweep import sweep_orphans
from service.worker.exports import asking, merged
from service.worker.failures import Refused
from service.worker.kinds import exports
from service.worker.lanes.read_lane import ReadControl, Task
from service.worker.moments import SharedMoments
from service.worker.versions import tensors
from service.worker.versions.views import VersionViews

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
FACTS = [
    FactRecord(subject="Lyon", prompt="{} is a city in", target_new="Japan"),
    FactRecord(subject="Nice", prompt="{} is a city in", target_new="Peru"),
]


class Bench:
    """A store with an edited version of a tiny model, and a way to run exports of it."""

    def __init__(self, root: Path, base: LoadedModel, view: ModelView | None = None) -> None:
        self.base, self.view = base, view or edited(base)
        self.store = Store.open(root)
        self.store.create_base(base.weights_sha256)
        self.settings = Settings(store=root)
        self.told: list[Progress] = []
        self.write_version()

    def write_version(self) -> None:
        store, view = self.store, self.view
        refs: list[TensorRef] = []
        for name, updates in view.history.items():
            # as one batch: what came before is in the same manifest
            left = torch.cat([u.left for u in updates if u.left is not None], dim=1)
            right = torch.cat([u.right for u in updates if u.right is not None], dim=1)
            refs.append(tensors.put(store, f"u.{name}", left))
            refs.append(tensors.put(store, f"v.{name}", right))
        kept = [tensors.put(store, name, t) for name, t in view.replaced.items()]
        store.versions.write(
            Manifest(
                id=store.versions.new_id(),
                parent="v0",
                edit_id="edit_1",
                editor="memit",
                facts=FACTS,
                tensors=kept,
                artifacts=refs,
                weights_sha256=view.weights_sha256(),
                created_at=now(),
            )
        )

    def job(self, format: str, version: str = "v1", **options: Any) -> Job:
        job_id = new_id("job")
        payload = ExportPayload(
            export_id="export_" + job_id[4:],
            version=version,
            format=format,
            options={"format": format, **options},
        )
        job = Job(id=job_id, kind=JobKind.EXPORT, payload=payload.model_dump(), created_at=now())
        self.store.journal.add(job)
        return job

    def run(self, job: Job, pause: Callable[[], None] = lambda: None) -> ExportResult:
        control = ReadControl(
            publish=self.told.append, checkpoint=lambda: None, pause=pause, give_way=lambda: None
        )
        views, work = VersionViews(self.base, self.store), self.store.drafts.work_folder(job.id)
        moments = SharedMoments(self.base, self.store, self.settings)
        task = Task(job, control, self.base, views, self.store, self.settings, work, moments)
        return exports.run(task)

    def run_new(self, format: str, **options: Any) -> ExportResult:
        return self.run(self.job(format, **options))

    def end(self, job: Job, status: JobStatus) -> None:
        self.store.journal.save(job.model_copy(update={"status": status, "finished_at": now()}))

    def folder(self, job: Job) -> Path:
        return self.store.exports.path(job.id)

    def left(self) -> list[str]:
        return sorted(p.name for p in (self.store.root / "exports").iterdir())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "store", loaded(tmp_path / "model", "llama"))


def checks(result: ExportResult) -> dict[str, tuple[float, bool]]:
    return {one.name: (one.value, one.ok) for one in result.proof.checks}


def test_an_adapter_is_written_asked_and_described(bench: Bench) -> None:
    job = bench.job("peft")
    result = bench.run(job)
    folder = bench.folder(job)
    assert {p.name for p in folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "README.md", RECORD,
    }  # fmt: skip
    assert [f.path for f in result.files] == [f.path for f in verify(folder)] + [RECORD]
    assert result.bytes == sum(p.stat().st_size for p in folder.iterdir())
    assert (result.details["rank"], len(result.details["modules"])) == (5, len(LAYERS))
    assert result.proof.ok
    found = checks(result)
    assert set(found) == {"matrices", "peft"}
    assert found["matrices"][0] < 1e-5
    assert found["peft"][0] < 1e-4
    assert result.proof.facts == 2
    assert result.proof.hold == result.proof.hold_in_version
    record = json.loads((folder / RECORD).read_text())
    assert (record["version"], record["format"], record["n_facts"]) == ("v1", "peft", 2)
    assert record["base"]["sha256"] == bench.base.weights_sha256
    assert {p.phase for p in bench.told} >= {"prepare", "factors", "prove", "ask"}
    assert bench.left() == [job.id]


def test_a_merged_folder_is_the_version(bench: Bench) -> None:
    job = bench.job("merged")
    result = bench.run(job)
    assert load(str(bench.folder(job))).weights_sha256 == bench.view.weights_sha256()
    assert checks(result) == {"weights": (0, True)}
    assert result.proof.hold == result.proof.hold_in_version
    verify(bench.folder(job))
    assert 'from_pretrained("FOLDER"' in result.use


def test_a_merged_folder_in_a_smaller_type_is_off_by_its_rounding(bench: Bench) -> None:
    result = bench.run(bench.job("merged", dtype="bfloat16"))
    value, ok = checks(result)["weights"]
    assert ok
    assert 0 < value <= 2**-8


def test_the_changed_matrices_alone_are_compared_by_hash(bench: Bench) -> None:
    job = bench.job("safetensors")
    result = bench.run(job)
    found = load_file(bench.folder(job) / "changed.safetensors")
    assert {name: t.tolist() for name, t in found.items()} == {
        name: t.tolist() for name, t in bench.view.replaced.items()
    }
    assert checks(result) == {"matrices": (0, True)}


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text"])
def test_proofs_hold_for_other_families(tmp_path: Path, family: str) -> None:
    bench = Bench(tmp_path / "store", loaded(tmp_path / "model", family))
    for format in ("peft", "merged", "safetensors"):
        result = bench.run(bench.job(format))
        assert result.proof.ok, (format, result.proof)


def test_facts_leave_the_service_only_on_request(bench: Bench) -> None:
    without, given = bench.job("peft"), bench.job("peft", include_facts=True)
    for job in (without, given):
        bench.run(job)
    everything = b"".join(p.read_bytes() for p in bench.folder(without).iterdir())
    assert b"Lyon" not in everything
    assert b"Japan" not in everything
    lines = (bench.folder(given) / "facts.jsonl").read_text().splitlines()
    assert [json.loads(line)["subject"] for line in lines] == ["Lyon", "Nice"]
    assert "| Lyon is a city in | Japan |" in (bench.folder(given) / "README.md").read_text()


def test_the_report_has_every_fact_with_both_answers(bench: Bench) -> None:
    job = bench.job("merged")
    bench.run(job)
    report = json.loads((bench.store.reports.folder(job.id) / "proof.json").read_text())
    assert [one["prompt"] for one in report["asked"]] == ["Lyon is a city in", "Nice is a city in"]
    assert all(one["in_version"] == one["in_written"] for one in report["asked"])


def test_a_fact_that_the_files_do_not_say_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version says both; of what was written, one."""
    plain = asking.said

    def played(view: ModelView, facts: Any, contexts: Any, monitor: Any) -> Any:
        answers = [
            one.__class__(**{**vars(one), "writes_new": view.base is bench.base or i == 0})
            for i, one in enumerate(plain(view, facts, contexts, monitor).answers)
        ]
        return type(plain(view, facts, contexts, monitor))(answers)

    monkeypatch.setattr(asking, "said", played)
    result = bench.run(bench.job("merged"))
    assert (result.proof.hold_in_version, result.proof.hold, result.proof.n_lost) == (2, 1, 1)
    assert not result.proof.ok
    assert [(one.version, one.index, one.target_new) for one in result.proof.lost] == [
        ("v1", 1, "Peru")
    ]


def test_a_folder_too_large_for_the_memory_is_written_and_not_asked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "_free_memory", lambda base: 2**29 + 2**20)
    job = bench.job("merged")
    result = bench.run(job)
    assert result.proof.hold is None
    assert "load it elsewhere and ask there" in str(result.proof.not_asked)
    assert bench.store.exports.is_there(job.id)


def test_a_rank_that_is_not_allowed_ends_the_job_and_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(RankTooHigh, match="needs rank 5"):
        bench.run(bench.job("peft", max_rank=2, max_error=0.01))
    assert bench.left() == []


def test_a_truncated_adapter_says_what_it_costs(bench: Bench) -> None:
    result = bench.run(bench.job("peft", max_rank=2))
    assert result.details["rank"] == 2
    value, ok = checks(result)["matrices"]
    assert ok
    worst = max(module["error"] for module in result.details["modules"])
    assert value == pytest.approx(worst, rel=1e-4)
    assert worst > 0.1


def test_the_base_has_no_adapter_but_a_folder(bench: Bench) -> None:
    with pytest.raises(NotExportable, match="changes no weight"):
        bench.run(bench.job("peft", version="v0"))
    job = bench.job("merged", version="v0")
    assert bench.run(job).proof.facts == 0
    assert load(str(bench.folder(job))).weights_sha256 == bench.base.weights_sha256


def test_a_matrix_without_factors_is_exported_by_its_difference(tmp_path: Path) -> None:
    base = loaded(tmp_path / "model", "llama")
    view = ModelView(base)
    name = base.family.weight_name(1)
    low = factored(32, 96, 2, seed=1).matrix().float()
    view.replace(name, base.model.get_parameter(name) + low)
    result = Bench(tmp_path / "store", base, view).run_new("peft", max_error=1e-3)
    assert result.details["rank"] == 2
    assert result.proof.ok


def test_an_unknown_format_is_named(bench: Bench) -> None:
    with pytest.raises(Refused, match=r"cannot write 'onnx', only: peft, merged"):
        bench.run(bench.job("onnx"))


@pytest.mark.parametrize(
    ("limits", "error"),
    [({"min_free_mb": 10**9}, DiskFull), ({"max_store_mb": 1}, StoreFull)],
)
def test_without_room_nothing_is_written(
    bench: Bench, limits: dict[str, int], error: type[Exception]
) -> None:
    bench.settings = bench.settings.model_copy(update=limits)
    with pytest.raises(error, match="MB"):
        bench.run(bench.job("merged"))
    assert bench.left() == []


@pytest.mark.parametrize("nth", range(1, 8))
def test_wherever_it_is_cancelled_nothing_is_left(bench: Bench, nth: int) -> None:
    job, seen = bench.job("peft"), [0]

    def pause() -> None:
        seen[0] += 1
        if seen[0] == nth:
            raise Cancelled("on request")

    with pytest.raises(Cancelled):
        bench.run(job, pause)
    assert bench.left() == []


def test_files_that_changed_under_the_worker_end_the_job(bench: Bench) -> None:
    assert bench.base.folder is not None
    path = bench.base.folder / "model.safetensors"
    found = load_file(path)
    found["model.norm.weight"] = found["model.norm.weight"] + 1
    path.unlink()  # the loaded model maps the old file
    save_file(found, path, {"format": "pt"})
    with pytest.raises(NotExportable, match=r"model\.norm\.weight differs"):
        bench.run(bench.job("merged"))
    assert bench.left() == []


def test_a_finished_folder_is_not_written_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the folder was put in its place, before the end was recorded."""
    job = bench.job("peft")
    first = bench.run(job)
    monkeypatch.setattr(exports, "whole_folder", None)
    assert bench.run(job).model_dump(mode="json") == first.model_dump(mode="json")


def test_a_folder_without_its_result_is_written_again(bench: Bench) -> None:
    job = bench.job("peft")
    first = bench.run(job)
    bench.store.drafts.drop(job.id)
    assert bench.run(job).files[:-1] == first.files[:-1]
    assert bench.left() == [job.id]


def test_what_a_killed_attempt_left_is_replaced(bench: Bench) -> None:
    job = bench.job("peft")
    partial = bench.store.root / "exports" / f"{job.id}.partial"
    partial.mkdir()
    (partial / "junk").write_text("half")
    bench.run(job)
    assert not (bench.folder(job) / "junk").exists()
    assert bench.left() == [job.id]


def test_only_the_newest_exports_are_kept_and_those_in_use(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"keep_exports": 2})
    jobs = [bench.job("safetensors") for _ in range(4)]
    bench.run(jobs[0])
    bench.end(jobs[0], JobStatus.SUCCEEDED)
    bench.store.exports.keep(jobs[0].id, "target-1")
    for job in jobs[1:]:
        bench.run(job)
    assert bench.store.exports.all() == [jobs[3].id, jobs[2].id, jobs[0].id]
    bench.store.exports.release(jobs[0].id, "target-1")
    assert bench.store.exports.retire(2) == [jobs[0].id]


def test_sweeping_removes_what_no_job_stands_for(bench: Bench) -> None:
    good, failed, open_ = (bench.job("safetensors") for _ in range(3))
    for job in (good, failed, open_):
        bench.run(job)
    bench.end(good, JobStatus.SUCCEEDED)
    bench.end(failed, JobStatus.FAILED)
    for name in (f"{good.id}.partial", f"{open_.id}.partial", "job_nobody"):
        (bench.store.root / "exports" / name).mkdir()
    sweep_orphans(bench.store)
    assert bench.left() == sorted([good.id, open_.id, f"{open_.id}.partial"])
