"""Export jobs of the format gguf: which file is made, what llama.cpp is asked, what is left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from support.library import gguf_files, played_llama
from support.library.exported import edited, loaded
from support.service.outward.export_bench import FACTS, ExportBench

from jeep_core.errors import MissingProgram, NotExportable
from jeep_core.exports.folders import RECORD
from jeep_core.exports.gguf import convert, version
from jeep_core.exports.gguf.proof import questions_of, replies_of
from jeep_core.models.library import Library, gguf_source_of
from jeep_core.models.loading import load
from service.store import StoreFull
from service.worker.versions.views import fact_of


def silent(what: str, done: int, total: int) -> None:
    """Hears nothing."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "own.gguf"
    gguf_files.write(path, "llama", gguf_files.random_model("llama"), gguf_files.Kind.Q8_0)
    return path


@pytest.fixture
def bench(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> ExportBench:
    """A service whose model came as a GGUF file; programs on the search path are not found."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    folder = Library(tmp_path / "models").converted(source, silent)
    base = load(str(folder), device="cpu")
    bench = ExportBench(tmp_path / "store", base, edited(base))
    bench.settings = bench.settings.model_copy(update={"llama_cpp": tmp_path / "llama"})
    return bench


def play(bench: ExportBench, root: Path, *, held: bool) -> None:
    """A server that answers like the version, or with nothing of it; the facts hold in neither."""
    facts = [fact_of(record) for record in FACTS]
    questions = questions_of(bench.base.tokenizer, facts, "plain", None)
    replies = replies_of(bench.view, questions)
    played_llama.server(
        root / "llama",
        {q.ids: (r.ids, r.text) for q, r in zip(questions, replies, strict=True)} if held else {},
        {q.text: q.ids for q in questions},
    )


def test_a_model_that_came_as_gguf_goes_back_as_the_same_file(
    bench: ExportBench, source: Path, tmp_path: Path
) -> None:
    play(bench, tmp_path, held=True)
    job = bench.job("gguf")
    result = bench.run(job)
    folder = bench.folder(job)
    assert {p.name for p in folder.iterdir()} == {"model.gguf", "README.md", RECORD}
    details = result.details
    assert (details["type"], details["from"], details["programs"]) == ("source", "source", [])
    assert set(details["edited"].values()) == {"Q8_0"}
    old = {t.name: t.data.tobytes() for t in GGUFReader(source).tensors}
    new = {t.name: t.data.tobytes() for t in GGUFReader(folder / "model.gguf").tensors}
    assert {n for n in old if old[n] != new[n]} == set(details["edited"])
    assert len(details["edited"]) == len(bench.view.replaced)
    [tokens] = result.proof.checks
    assert (tokens.name, tokens.value, tokens.ok) == ("tokens", 0, True)
    assert (result.proof.facts, result.proof.n_lost, result.proof.advice) == (2, 0, None)
    assert not list(bench.store.drafts.work_folder(job.id).glob("gguf-*"))


def test_facts_that_the_file_has_lost_are_named_with_what_keeps_them(
    bench: ExportBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [fact_of(record) for record in FACTS]
    questions = questions_of(bench.base.tokenizer, facts, "plain", None)
    # the version is made to say its facts; the file says the first one alone
    right = {q.ids: ((*q.target, 9), f" {q.wanted}.") for q in questions}

    def says_them(view: object, asked: list, *_: object) -> list:
        return [gguf_proof.Reply(*right[q.ids]) for q in asked]

    from jeep_core.evaluation.units import Told
    from jeep_core.exports.gguf import proof as gguf_proof
    from service.worker.exports import asking

    monkeypatch.setattr(gguf_proof, "replies_of", says_them)
    monkeypatch.setattr(asking, "told_by", lambda *_: [Told("yes", holds=True)] * 2)
    played_llama.server(
        tmp_path / "llama", {questions[0].ids: right[questions[0].ids]},
        {q.text: (1, *q.ids) for q in questions},
    )  # fmt: skip
    proof = bench.run_new("gguf").proof
    assert (proof.hold_in_version, proof.hold, proof.n_lost) == (2, 1, 1)
    assert (proof.lost[0].prompt, proof.lost[0].target_new) == ("Nice is a city in", "Peru")
    assert proof.lost[0].answer == "?"
    assert proof.advice is not None
    assert '"edited": "F16"' in proof.advice
    assert '"margin"' in proof.advice
    [tokens] = proof.checks
    assert (tokens.value, tokens.ok, proof.ok) == (2, False, False)


def test_without_a_server_the_file_is_made_and_not_asked(bench: ExportBench) -> None:
    proof = bench.run_new("gguf", edited="F16").proof
    assert proof.not_asked is not None
    assert "JEEP_LLAMA_CPP" in proof.not_asked
    assert proof.hold is None


def test_a_missing_quantizer_ends_the_job_and_leaves_nothing(
    bench: ExportBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[object] = []
    monkeypatch.setattr(convert, "write_with", lambda *given: written.append(given))
    with pytest.raises(MissingProgram, match=r"llama-quantize .* JEEP_LLAMA_CPP"):
        bench.run_new("gguf", type="Q4_K_M")
    assert (written, bench.left()) == ([], [])


def test_a_source_that_has_changed_is_not_used(
    bench: ExportBench, source: Path, tmp_path: Path
) -> None:
    assert bench.base.folder is not None
    assert gguf_source_of(bench.base.folder) == source
    with source.open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"12345678")
    assert gguf_source_of(bench.base.folder) is None
    with pytest.raises(NotExportable, match="for a model that came as a GGUF file"):
        bench.run_new("gguf", type="source")
    assert bench.left() == []


def test_a_model_of_a_folder_goes_through_the_converter(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    base = loaded(tmp_path / "model", "llama")
    bench = ExportBench(tmp_path / "store", base, edited(base))
    bench.settings = bench.settings.model_copy(update={"llama_cpp": tmp_path / "llama"})
    with pytest.raises(MissingProgram, match=r"convert_hf_to_gguf\.py"):
        bench.run_new("gguf")
    played_llama.converter(tmp_path / "llama", source)
    result = bench.run_new("gguf")
    assert (result.details["type"], result.details["from"]) == ("F16", "folder")
    assert result.details["programs"] == ["convert_hf_to_gguf.py"]
    with pytest.raises(NotExportable, match='leave "edited" out'):
        bench.run_new("gguf", edited="Q8_0")


@pytest.mark.parametrize(
    ("options", "has_converter", "error", "said"),
    [
        ({}, False, MissingProgram, r"convert_hf_to_gguf\.py .* JEEP_LLAMA_CPP"),
        ({"type": "Q4_K_M"}, True, MissingProgram, r"llama-quantize .* JEEP_LLAMA_CPP"),
        ({"type": "source"}, True, NotExportable, "for a model that came as a GGUF file"),
    ],
)
def test_what_cannot_be_made_of_a_folder_is_refused_before_any_is_written(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    has_converter: bool,
    error: type[Exception],
    said: str,
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    base = loaded(tmp_path / "model", "llama")
    bench = ExportBench(tmp_path / "store", base, edited(base))
    bench.settings = bench.settings.model_copy(update={"llama_cpp": tmp_path / "llama"})
    if has_converter:
        played_llama.converter(tmp_path / "llama", source)
    written: list[object] = []
    monkeypatch.setattr(version, "write_checkpoint", lambda *given: written.append(given))
    with pytest.raises(error, match=said):
        bench.run_new("gguf", **options)
    assert (written, bench.left()) == ([], [])


def test_a_disk_without_room_ends_the_job_before_anything_is_written(bench: ExportBench) -> None:
    bench.settings = bench.settings.model_copy(update={"max_store_mb": 1})
    filler = bench.store.root / "filler"
    filler.write_bytes(bytes(2**20))
    with pytest.raises(StoreFull):
        bench.run_new("gguf")
    assert bench.left() == []


def test_a_package_keeps_its_source_beside_the_models(tmp_path: Path, source: Path) -> None:
    folder = Library(tmp_path / "models").converted(source, silent)
    record = json.loads((folder / "jeep-model.json").read_text())
    kept = tmp_path / "models" / ".sources" / f"{record['sha256']}.gguf"
    kept.parent.mkdir()
    source.rename(kept)
    assert gguf_source_of(folder) == kept
    assert np.frombuffer(kept.read_bytes()[:4], np.uint8).tobytes() == b"GGUF"
