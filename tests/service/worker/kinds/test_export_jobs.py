"""Export jobs: what is written, how it is proven, and what is left when it ends early."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.library.exported import LAYERS, edited, factored, loaded, logits
from support.service.outward.export_bench import ExportBench

from jeep_core.errors import Cancelled, NotExportable, RankTooHigh
from jeep_core.evaluation import units
from jeep_core.evaluation.outcomes import Said
from jeep_core.exports.folders import RECORD, verify
from jeep_core.models.loading import load
from jeep_core.models.views import ModelView
from service.contracts.jobs import JobStatus
from service.contracts.schemas.exports import ExportResult
from service.store import DiskFull, StoreFull
from service.store.maintenance.sweep import sweep_orphans
from service.worker.editing.asking import live_facts
from service.worker.exports import merged
from service.worker.failures import Refused
from service.worker.kinds import exports
from service.worker.members import publishing
from service.worker.metrics import REGISTRY

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture
def bench(tmp_path: Path) -> ExportBench:
    base = loaded(tmp_path / "model", "llama")
    return ExportBench(tmp_path / "store", base, edited(base))


def checks(result: ExportResult) -> dict[str, tuple[float, bool]]:
    return {one.name: (one.value, one.ok) for one in result.proof.checks}


def test_an_adapter_is_written_asked_and_described(bench: ExportBench) -> None:
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


def test_a_merged_folder_is_the_version(bench: ExportBench) -> None:
    job = bench.job("merged")
    result = bench.run(job)
    assert load(str(bench.folder(job))).weights_sha256 == bench.view.weights_sha256()
    assert checks(result) == {"weights": (0, True)}
    assert result.proof.hold == result.proof.hold_in_version
    verify(bench.folder(job))
    assert 'from_pretrained("FOLDER"' in result.use


def test_a_merged_folder_in_a_smaller_type_is_off_by_its_rounding(bench: ExportBench) -> None:
    result = bench.run(bench.job("merged", dtype="bfloat16"))
    value, ok = checks(result)["weights"]
    assert ok
    assert 0 < value <= 2**-8


def test_wide_files_of_a_model_served_in_a_narrow_type_are_proven(tmp_path: Path) -> None:
    """Unchanged weights stay as they are in the files, wider than those that were served."""
    base = loaded(tmp_path / "model", "llama", dtype="bfloat16")
    bench = ExportBench(tmp_path / "store", base, edited(base))
    for format in ("merged", "peft", "safetensors"):
        result = bench.run(bench.job(format))
        assert all(one.ok for one in result.proof.checks), (format, result.proof)


def test_a_fact_that_was_edited_again_is_asked_once(bench: ExportBench) -> None:
    """As the later batch has it; its place is the one in that batch's request."""
    first = bench.store.versions.read("v1")
    later = first.model_copy(
        update={"id": "v2", "parent": "v1", "edit_id": "edit_2", "facts": first.facts[1:]}
    )
    line = [bench.store.versions.read("v0"), first, later]
    found = live_facts(line, 4)
    assert [(one.version, one.index, one.fact.subject) for one in found] == [
        ("v1", 0, "Lyon"),
        ("v2", 0, "Nice"),
    ]


def test_the_changed_matrices_alone_are_compared_by_hash(bench: ExportBench) -> None:
    job = bench.job("safetensors")
    result = bench.run(job)
    found = load_file(bench.folder(job) / "changed.safetensors")
    assert {name: t.tolist() for name, t in found.items()} == {
        name: t.tolist() for name, t in bench.view.replaced.items()
    }
    assert checks(result) == {"matrices": (0, True)}


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text"])
def test_proofs_hold_for_other_families(tmp_path: Path, family: str) -> None:
    base = loaded(tmp_path / "model", family)
    bench = ExportBench(tmp_path / "store", base, edited(base))
    for format in ("peft", "merged", "safetensors"):
        result = bench.run(bench.job(format))
        assert result.proof.ok, (format, result.proof)


def test_facts_leave_the_service_only_on_request(bench: ExportBench) -> None:
    without, given = bench.job("peft"), bench.job("peft", include_facts=True)
    for job in (without, given):
        bench.run(job)
    everything = b"".join(p.read_bytes() for p in bench.folder(without).iterdir())
    assert b"Lyon" not in everything
    assert b"Japan" not in everything
    lines = (bench.folder(given) / "facts.jsonl").read_text().splitlines()
    assert [json.loads(line)["subject"] for line in lines] == ["Lyon", "Nice"]
    assert "| Lyon is a city in | Japan |" in (bench.folder(given) / "README.md").read_text()


@pytest.mark.parametrize("format", ["peft", "merged", "safetensors"])
def test_no_path_of_the_machine_is_in_the_files(bench: ExportBench, format: str) -> None:
    """The folder of the base model is called by its last part, and explained where it is needed."""
    job = bench.job(format)
    result = bench.run(job)
    everything = b"".join(p.read_bytes() for p in bench.folder(job).iterdir())
    assert str(bench.base.folder).encode() not in everything
    record = json.loads((bench.folder(job) / RECORD).read_text())
    assert (record["base"]["name"], result.origin.base) == ("model", "model")
    assert "\nbase_model:" not in (bench.folder(job) / "README.md").read_text()
    if format != "merged":
        assert '.from_pretrained("BASE_FOLDER")' in result.use
        assert "jeep export base --format merged --out BASE_FOLDER" in result.use


@pytest.mark.parametrize("format", ["peft", "safetensors"])
def test_the_named_program_makes_the_version_of_an_exported_base(
    bench: ExportBench, format: str
) -> None:
    """As `use` says: the base model's folder is an export of its own."""
    whole, job = bench.job("merged", version="v0"), bench.job(format)
    bench.run(whole)
    program = bench.run(job).use.replace("BASE_FOLDER", str(bench.folder(whole)))
    made: dict[str, Any] = {}
    exec(program.replace('"FOLDER', f'"{bench.folder(job)}'), made)
    assert torch.allclose(logits(made["model"]), logits(bench.view.model), atol=1e-4)
    assert not torch.allclose(logits(made["model"]), logits(bench.base.model), atol=1e-2)


@pytest.mark.parametrize("format", ["peft", "safetensors"])
def test_a_model_of_a_hub_is_loaded_by_its_id(bench: ExportBench, format: str) -> None:
    bench.base = replace(bench.base, name="owner/model")
    job = bench.job(format)
    result = bench.run(job)
    assert '.from_pretrained("owner/model")' in result.use
    assert "BASE_FOLDER" not in result.use
    assert "\nbase_model: owner/model\n" in (bench.folder(job) / "README.md").read_text()


def test_the_report_has_every_fact_with_both_answers(bench: ExportBench) -> None:
    job = bench.job("merged")
    bench.run(job)
    report = json.loads((bench.store.reports.folder(job.id) / "proof.json").read_text())
    assert [one["prompt"] for one in report["asked"]] == ["Lyon is a city in", "Nice is a city in"]
    assert all(one["in_version"] == one["in_written"] for one in report["asked"])


def test_a_fact_that_the_files_do_not_say_is_lost(
    bench: ExportBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version says both; of what was written, one."""
    plain = units.said

    def played(view: ModelView, *given: Any) -> Said:
        heard = plain(view, *given).answers
        holds = [True, view.base is bench.base]
        return Said([replace(one, writes_new=yes) for one, yes in zip(heard, holds, strict=True)])

    monkeypatch.setattr(units, "said", played)
    before = kept("held"), kept("lost")
    result = bench.run(bench.job("merged"))
    assert (result.proof.hold_in_version, result.proof.hold, result.proof.n_lost) == (2, 1, 1)
    assert not result.proof.ok
    assert [(one.version, one.index, one.target_new) for one in result.proof.lost] == [
        ("v1", 1, "Peru")
    ]
    assert (kept("held"), kept("lost")) == (before[0] + 1, before[1] + 1)


def kept(outcome: str) -> float:
    labels = {"format": "merged", "outcome": outcome}
    return REGISTRY.get_sample_value("jeep_exported_facts_total", labels) or 0.0


def test_a_folder_too_large_for_the_memory_is_written_and_not_asked(
    bench: ExportBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "_free_memory", lambda base: 2**29 + 2**20)
    job = bench.job("merged")
    result = bench.run(job)
    assert result.proof.hold is None
    assert "load it elsewhere and ask there" in str(result.proof.not_asked)
    assert bench.store.exports.is_there(job.id)


def test_a_rank_that_is_not_allowed_ends_the_job_and_leaves_nothing(bench: ExportBench) -> None:
    with pytest.raises(RankTooHigh, match="needs rank 5"):
        bench.run(bench.job("peft", max_rank=2, max_error=0.01))
    assert bench.left() == []


def test_a_truncated_adapter_says_what_it_costs(bench: ExportBench) -> None:
    result = bench.run(bench.job("peft", max_rank=2))
    assert result.details["rank"] == 2
    value, ok = checks(result)["matrices"]
    assert ok
    worst = max(module["error"] for module in result.details["modules"])
    assert value == pytest.approx(worst, rel=1e-4)
    assert worst > 0.1


def test_the_base_has_no_adapter_but_a_folder(bench: ExportBench) -> None:
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
    result = ExportBench(tmp_path / "store", base, view).run_new("peft", max_error=1e-3)
    assert result.details["rank"] == 2
    assert result.proof.ok


def test_the_api_is_told_how_large_a_folder_is_in_each_type(tmp_path: Path) -> None:
    base = loaded(tmp_path / "model", "llama")
    bench = ExportBench(tmp_path / "store", base, edited(base))
    publishing.publish(bench.store, base, bench.settings)
    info = bench.store.base.info()
    assert info is not None
    weights = sum(t.nbytes for t in load_file(tmp_path / "model" / "model.safetensors").values())
    files = info.checkpoint_bytes
    assert info.checkpoint_bytes_as == {
        "float32": files, "bfloat16": files - weights // 2, "float16": files - weights // 2,
    }  # fmt: skip
    written = bench.run_new("merged", dtype="bfloat16").bytes
    assert 0.9 * weights / 2 < written <= info.checkpoint_bytes_as["bfloat16"]


def test_an_unknown_format_is_named(bench: ExportBench) -> None:
    with pytest.raises(Refused, match=r"cannot write 'onnx', only: peft, merged"):
        bench.run(bench.job("onnx"))


@pytest.mark.parametrize(
    ("limits", "error"),
    [({"min_free_mb": 10**9}, DiskFull), ({"max_store_mb": 1}, StoreFull)],
)
def test_without_room_nothing_is_written(
    bench: ExportBench, limits: dict[str, int], error: type[Exception]
) -> None:
    bench.settings = bench.settings.model_copy(update=limits)
    with pytest.raises(error, match="MB"):
        bench.run(bench.job("merged"))
    assert bench.left() == []


@pytest.mark.parametrize("nth", range(1, 8))
def test_wherever_it_is_cancelled_nothing_is_left(bench: ExportBench, nth: int) -> None:
    job, seen = bench.job("peft"), [0]

    def pause() -> None:
        seen[0] += 1
        if seen[0] == nth:
            raise Cancelled("on request")

    with pytest.raises(Cancelled):
        bench.run(job, pause)
    assert bench.left() == []


def test_files_that_changed_under_the_worker_end_the_job(bench: ExportBench) -> None:
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
    bench: ExportBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the folder was put in its place, before the end was recorded."""
    job = bench.job("peft")
    first = bench.run(job)
    monkeypatch.setattr(exports, "whole_folder", None)
    assert bench.run(job).model_dump(mode="json") == first.model_dump(mode="json")


def test_a_folder_without_its_result_is_written_again(bench: ExportBench) -> None:
    job = bench.job("peft")
    first = bench.run(job)
    bench.store.drafts.drop(job.id)
    assert bench.run(job).files[:-1] == first.files[:-1]
    assert bench.left() == [job.id]


def test_what_a_killed_attempt_left_is_replaced(bench: ExportBench) -> None:
    job = bench.job("peft")
    partial = bench.store.root / "exports" / f"{job.id}.partial"
    partial.mkdir()
    (partial / "junk").write_text("half")
    bench.run(job)
    assert not (bench.folder(job) / "junk").exists()
    assert bench.left() == [job.id]


def test_only_the_newest_exports_are_kept_and_those_in_use(bench: ExportBench) -> None:
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


def test_sweeping_removes_what_no_job_stands_for(bench: ExportBench) -> None:
    good, failed, open_ = (bench.job("safetensors") for _ in range(3))
    for job in (good, failed, open_):
        bench.run(job)
    bench.end(good, JobStatus.SUCCEEDED)
    bench.end(failed, JobStatus.FAILED)
    for name in (f"{good.id}.partial", f"{open_.id}.partial", "job_nobody"):
        (bench.store.root / "exports" / name).mkdir()
    sweep_orphans(bench.store)
    assert bench.left() == sorted([good.id, open_.id, f"{open_.id}.partial"])
