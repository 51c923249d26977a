"""A GGUF file, made by llama.cpp's programs and asked in llama.cpp."""

from __future__ import annotations

import signal
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from jeep_core.evaluation.units import Told
from jeep_core.exports.gguf.proof import Asked as Way
from jeep_core.exports.gguf.proof import ProofSheet, Question, longest, prove_file, questions_of
from jeep_core.exports.gguf.server import LlamaServer
from jeep_core.exports.gguf.tools import LlamaCpp
from jeep_core.exports.gguf.types import EditedType, GgufType
from jeep_core.exports.gguf.version import bytes_needed, source_of, type_of, write_version
from service.contracts.schemas.exports import Check, GgufExport
from service.ops.parent_death import death_signal
from service.worker.exports.asking import check
from service.worker.exports.writing import Evidence, Version, Writer, Written

FILE = "model.gguf"
USE = """\
llama-server --model FOLDER/model.gguf

# or: llama-cli --model FOLDER/model.gguf"""
MARGIN = 6.0
"""Nats that the advice for lost facts names (docs/exports-gguf.md)."""


def needed(version: Version, options: GgufExport) -> int:
    """Two files at once, and a model folder where the model came as one."""
    return bytes_needed(version.base, version.view.replaced, type_of(version.base, options.type))


def write(version: Version, options: GgufExport, folder: Path) -> Written:
    """Write the file, from the GGUF that the model came from or from a folder of the version."""
    base, kind = version.base, type_of(version.base, options.type)
    with TemporaryDirectory(dir=version.task.work, prefix="gguf-") as name:
        made = write_version(
            folder / FILE, base, version.view.replaced, kind, EditedType(options.edited),
            _tools(version), Path(name), version.monitor,
        )  # fmt: skip
    return Written(
        use=USE,
        library="llama.cpp",
        said=f"{FILE} is a whole model for llama.cpp and what is built on it.",
        details={
            "type": str(kind),
            "types": made.types,
            "edited": dict(made.edited),
            "from": "folder" if source_of(base) is None else "source",
            "programs": list(made.programs),
        },
    )


def prove(version: Version, options: GgufExport, folder: Path) -> Evidence:
    """Ask the edited facts of the file in llama.cpp, with the tokens that the version gets."""
    tools = _tools(version)
    if tools.server is None:
        return Evidence(
            not_asked="llama-server was not found, so the file was not asked: install llama.cpp "
            "and name its folder in JEEP_LLAMA_CPP"
        )
    questions = _questions(version)
    with TemporaryDirectory(dir=version.task.work, prefix="gguf-") as name:
        sheet = prove_file(
            version.view,
            questions,
            LlamaServer(
                tools,
                folder / FILE,
                Path(name) / "server.log",
                longest(questions),
                torch.get_num_threads(),
                version.monitor,
            ),
            version.monitor,
        )
    return Evidence(
        told=_told(version, sheet), checks=_checks(sheet), advice=_advice(version, options, sheet)
    )


def _tools(version: Version) -> LlamaCpp:
    return LlamaCpp.find(version.task.settings.llama_cpp, death_signal(signal.SIGKILL))


def _questions(version: Version) -> list[Question]:
    """The questions of all facts, each in the contexts that it was edited for."""
    base, found = version.base, []
    for number, one in enumerate(version.facts):
        found += questions_of(base.tokenizer, [one.fact], one.contexts, base.chat, number)
    return found


def _told(version: Version, sheet: ProofSheet) -> list[Told]:
    """The file's answers; of a fact that is asked in two ways the first that is not the new one."""
    answers: dict[int, list[tuple[str, bool]]] = defaultdict(list)
    for one in sheet.compared:
        if one.question.asks in (Way.PROMPT, Way.CHAT):
            answers[one.question.fact].append((one.file.text, one.holds[1]))
    found = []
    for number in range(len(version.facts)):
        shown = min(answers[number], key=lambda answer: answer[1])
        found.append(Told(shown[0], all(holds for _, holds in answers[number])))
    return found


def _checks(sheet: ProofSheet) -> list[Check]:
    """Figures beside the facts; only prompts that llama.cpp reads otherwise are a fault."""
    said = "prompts that llama.cpp reads as other tokens than the version"
    found = [check("tokens", said, sheet.other_tokens, 0)]
    rephrased = sheet.held(Way.PARAPHRASE)
    if rephrased.share is not None:
        said = "share of the rephrasings answered as edited in the version that the file answers so"
        found.append(check("rephrasings", said, rephrased.share))
    same, asked = sheet.neighbors_same
    if asked:
        said = "share of the neighborhood prompts that the file answers word for word as before"
        found.append(check("neighbors", said, same / asked))
    return found


def _advice(version: Version, options: GgufExport, sheet: ProofSheet) -> str | None:
    """The ways to keep lost facts; None if none is lost."""
    if not sheet.lost:
        return None
    finer = type_of(version.base, options.type) not in (GgufType.F16, GgufType.BF16)
    ways = [f'edit these facts again with "hparams": {{"margin": {MARGIN:g}}}']
    if finer and options.edited == "same":
        ways.insert(0, 'export with "edited": "F16", which stores the edited matrices finer')
    return f"{'; or '.join(ways)} and export that version (jeep export … --strengthen)"


WRITER = Writer(needed, write, prove)
