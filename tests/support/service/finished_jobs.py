"""Evaluations, exports and probes that have ended, with the files that a worker leaves."""

import json
from dataclasses import asdict
from pathlib import Path

import httpx

from jeep_core.exports.folders import whole_folder, write_record
from service.contracts.jobs import Job, JobStatus, now
from service.contracts.schemas import (
    CaseChange,
    EvaluationComparison,
    EvaluationPoint,
    EvaluationResult,
    MetricInterval,
    ProbeResult,
)
from service.contracts.schemas.base import MetricProtocol
from service.contracts.schemas.evaluation import HeldOutText
from service.contracts.schemas.exports import ExportFile, ExportOrigin, ExportResult, Proof
from service.store import Store

SUITE = "atlas-counterfact"
HELD_OUT = HeldOutText(name="held.txt", sha256="7" * 64, tokens=4096)
SCORE = MetricProtocol(
    asked="all prompts of a case", how="as plain text", judged="in per cent", comparable="the same"
)
PERPLEXITY = MetricProtocol(
    asked="nothing", how="read: held.txt", judged="e to a mean", comparable="the same text"
)


def interval(value: float) -> MetricInterval:
    return MetricInterval(value=value, low=value - 1, high=value + 2, cases=2)


def finished_evaluation(http: httpx.Client, model: Store) -> tuple[str, Path]:
    """An evaluation of base and head that has ended, and its folder."""
    submitted = http.post(
        "/evaluations", json={"suite": SUITE, "versions": ["base", "head"]}
    ).json()
    job = model.journal.read(submitted["id"])
    folder = model.reports.folder(job.id)
    for number, label in enumerate(("base", "head")):
        rows = [{"target": label, "id": str(i)} for i in range(2)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"cases-{number}.jsonl").write_text(text)
    change = CaseChange(id="1", prompt="p", metrics={"efficacy": (0.0, 1.0)})
    compared = EvaluationComparison(
        a="base", b="head", cases=2, differences={"score": interval(5)}, better=[change], broken=[]
    )
    (folder / "comparisons.jsonl").write_text(compared.model_dump_json() + "\n")
    evaluation_id = submitted["evaluation_id"]
    points = [
        EvaluationPoint(
            label=label,
            version="v0",
            cases=2,
            metrics={"score": interval(90)},
            seconds=0.1,
            perplexity=7.5,
            perplexity_text=HELD_OUT,
        )
        for label in ("base", "head")
    ]
    result = EvaluationResult(
        evaluation_id=evaluation_id, suite=SUITE, suite_sha256="5" * 64, style="contrast", seed=0,
        points=points, protocols={"score": SCORE, "perplexity": PERPLEXITY},
    )  # fmt: skip
    ended: Job = job.model_copy(
        update={"status": JobStatus.SUCCEEDED, "finished_at": now(), "result": result.model_dump()}
    )
    model.journal.save(ended)
    return evaluation_id, folder


def finished_export(
    http: httpx.Client, model: Store, weights: bytes = b"weights" * 1000
) -> tuple[str, Path]:
    """An export of base that has ended, and the folder of its files."""
    submitted = http.post("/snapshots/base/export", json={"format": "safetensors"}).json()
    job, export_id = model.journal.read(submitted["id"]), submitted["resource_id"]
    with whole_folder(model.exports.path(job.id)) as folder:
        (folder / "weights.bin").write_bytes(weights)
        (folder / "inner").mkdir()
        (folder / "inner" / "empty.txt").touch()
        files = write_record(folder, {"version": "v0"})
    proof = Proof(facts=2, hold_in_version=2, hold=1, n_lost=1, ok=False)
    report = {**proof.model_dump(), "asked": []}
    (model.reports.folder(job.id) / "proof.json").write_text(json.dumps(report))
    model.reports.seal(job.id)
    origin = ExportOrigin(
        base="atlas-gptj", base_sha256="0" * 64, licence=None, version="v0", names=[],
        weights_sha256="0" * 64, n_facts=2, editors=["memit"], made_by="jeep-edit",
    )  # fmt: skip
    result = ExportResult(
        export_id=export_id,
        version="v0",
        format="safetensors",
        origin=origin,
        files=[ExportFile(**asdict(one)) for one in files],
        bytes=sum(one.bytes for one in files),
        use="load FOLDER",
        proof=proof,
    )
    update = {"status": JobStatus.SUCCEEDED, "finished_at": now(), "result": result.model_dump()}
    model.journal.save(job.model_copy(update=update))
    return export_id, model.exports.path(job.id)


def finished_probe(http: httpx.Client, model: Store) -> tuple[str, Path]:
    """A probe that has ended, and its folder."""
    submitted = http.post("/probes", json={"version": "base"}).json()
    job, probe_id = model.journal.read(submitted["id"]), submitted["probe_id"]
    folder = model.reports.folder(job.id)
    (folder / "probe.json").write_text(json.dumps({"format": 1, "n_layers": 9}))
    (folder / "answers.png").write_bytes(b"\x89PNG")
    (folder / "notes.txt").write_text("not in the result")
    hparams = {"low": {"layers": [1, 2]}, "high": {"layers": [7]}}
    result = ProbeResult(
        probe_id=probe_id,
        version="v0",
        prompts=250,
        dropped={"same_first_token": 6},
        low=[1, 2],
        high=[7],
        hparams=hparams,
        automatic=True,
        files=["probe.json", "answers.png"],
    )
    update = {"status": JobStatus.SUCCEEDED, "finished_at": now(), "result": result.model_dump()}
    model.journal.save(job.model_copy(update=update))
    return probe_id, folder
