"""Export jobs: a version is written for other programs, and what was written is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jeep_core.exports.bases import base_name
from jeep_core.exports.card import Origin, licence_of, write_card
from jeep_core.exports.folders import whole_folder, write_record
from jeep_core.spec.finite import json_text
from service.contracts.exports import FORMATS
from service.contracts.kinds import load
from service.contracts.schemas import Manifest
from service.contracts.schemas.exports import (
    PROOF_FILE,
    ExportFile,
    ExportOptions,
    ExportOrigin,
    ExportPayload,
    ExportResult,
    Proof,
)
from service.ops.release import program_version
from service.store import CorruptFile
from service.store.files import encode, read, replace
from service.store.maintenance.room import Room
from service.worker.editing.asking import Edited, live_facts
from service.worker.exports.asking import ask_both, count_asked, proof_of
from service.worker.exports.writing import Version, Writer, Written
from service.worker.failures import Refused
from service.worker.lanes.read_lane import Task

RESULT = "result.json"
"""The result of a job whose folder is complete, among its partial results."""


def run(task: Task) -> ExportResult:
    """Write a version in a format, ask it, and put it in its place; older exports may have to go.

    A job that runs again finds what it has finished before; anything less is written again.

    Raises:
        NotExportable, RankTooHigh: the format cannot hold the version, as it was asked for.
        StoreFull, DiskFull: there is no room for it.
        Refused: the format is unknown to this worker.
        Whatever the task's control raises.
    """
    payload = ExportPayload.model_validate(task.job.payload)
    target = task.store.exports.path(task.job.id)
    if (finished := _finished_before(task)) is not None:
        return finished
    writer, options = _writer(payload)
    line = task.store.versions.lineage(payload.version)
    facts = live_facts(line, task.base.n_layers)
    version = Version(task, line, facts, _origin(task, line, facts, options))

    task.control.progress("prepare", 0, 1)
    room = Room(task.store.root, task.settings.max_store_mb, task.settings.min_free_mb)
    room.check(writer.needed(version, options))
    with whole_folder(target) as folder:
        written = writer.write(version, options, folder)
        task.control.pause()
        proof = _proven(version, writer, options, folder)
        result = _completed(payload, version, options, written, proof, folder)
        replace(task.work / RESULT, encode(result))
        task.control.pause()
    task.store.exports.retire(task.settings.keep_exports)
    return result


def _writer(payload: ExportPayload) -> tuple[Writer, ExportOptions]:
    """The functions of a format, and its options.

    Raises:
        Refused: there is no such format.
    """
    spec = FORMATS.get(payload.format)
    if spec is None:
        known = ", ".join(FORMATS)
        raise Refused(
            "unknown_format", f"this worker cannot write {payload.format!r}, only: {known}"
        )
    writer: Writer = load(spec.writer)
    return writer, spec.options_model().model_validate(payload.options)


def _origin(
    task: Task, line: Sequence[Manifest], facts: Sequence[Edited], options: ExportOptions
) -> Origin:
    """The sentences of the card, as fields."""
    manifest, base = line[-1], base_name(task.base.name, task.base.folder)
    names = sorted(n for n, version in task.store.names.all().items() if version == manifest.id)
    given = [
        {"subject": one.fact.subject, "prompt": one.fact.prompt, "target_new": one.fact.target_new}
        for one in facts
    ]
    return Origin(
        base=base.text,
        hub_id=base.hub_id,
        base_sha256=task.base.weights_sha256,
        version=manifest.id,
        weights_sha256=manifest.weights_sha256,
        n_facts=len(facts),
        editors=sorted({str(one.editor) for one in line if one.editor}),
        created_at=task.job.created_at.isoformat(timespec="seconds"),
        release=program_version(),
        licence=None if task.base.folder is None else licence_of(task.base.folder),
        names=names,
        facts=given if options.include_facts else None,
    )


def _proven(version: Version, writer: Writer, options: ExportOptions, folder: Path) -> Proof:
    """The proof sheet; its details are the job's report."""
    task = version.task
    task.control.progress("prove", 0, 1)
    evidence = writer.prove(version, options, folder)
    asked = ask_both(version, evidence)
    count_asked(task.job.payload["format"], asked or ())
    proof = proof_of(evidence, len(version.facts), asked)
    record = {**proof.model_dump(mode="json"), "asked": [one.line() for one in asked or ()]}
    replace(task.reports / PROOF_FILE, json_text(record, "the proof sheet").encode())
    return proof


def _completed(
    payload: ExportPayload,
    version: Version,
    options: ExportOptions,
    written: Written,
    proof: Proof,
    folder: Path,
) -> ExportResult:
    """The result, after the card and the record have been written into the folder."""
    origin = version.origin
    write_card(
        folder, origin, written.library, written.use, f"{written.said} {_in_words(proof)}".strip()
    )
    # facts leave the service only where that is asked for
    shown = None if options.include_facts else {"lost"}
    record = {
        **origin.record(),
        "format": payload.format,
        "options": payload.options,
        "details": dict(written.details),
        "use": written.use,
        "proof": proof.model_dump(mode="json", exclude=shown),
    }
    files = write_record(folder, record, tuple(written.hashes))
    return ExportResult(
        export_id=payload.export_id,
        version=payload.version,
        format=payload.format,
        origin=_shown(origin),
        files=[ExportFile(**asdict(one)) for one in files],
        bytes=sum(one.bytes for one in files),
        details=dict(written.details),
        use=written.use,
        proof=proof,
    )


def _shown(origin: Origin) -> ExportOrigin:
    record: Mapping[str, Any] = origin.record()
    base = record["base"]
    rest = {name: record[name] for name in ExportOrigin.model_fields if name in record}
    named = {"base": base["name"], "base_sha256": base["sha256"], "licence": base["licence"]}
    return ExportOrigin.model_validate({**rest, **named})


def _in_words(proof: Proof) -> str:
    """A sentence on the proof for the card."""
    if proof.hold is None:
        return ""
    return (
        f"Of {proof.facts} edited facts {proof.hold_in_version} held in the version and "
        f"{proof.hold} in these files when they were written."
    )


def _finished_before(task: Task) -> ExportResult | None:
    """The result of an earlier attempt that was interrupted when all of it was written."""
    if not task.store.exports.is_there(task.job.id):
        return None
    try:
        found = read(task.work / RESULT, ExportResult)
    except CorruptFile:
        found = None
    if found is None:
        task.store.exports.remove(task.job.id)
    return found
