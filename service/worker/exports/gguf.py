"""A GGUF file, made by llama.cpp's programs and asked in llama.cpp."""

from __future__ import annotations

import signal
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from jeep_core.exports.checkpoint import checkpoint_bytes, folder_of, write_checkpoint
from jeep_core.exports.gguf.convert import (
    Made,
    check_makeable,
    check_types,
    from_folder,
    from_source,
)
from jeep_core.exports.gguf.proof import Asked as Way
from jeep_core.exports.gguf.proof import ProofSheet, Question, longest, prove_file, questions_of
from jeep_core.exports.gguf.server import LlamaServer
from jeep_core.exports.gguf.tools import LlamaCpp
from jeep_core.exports.gguf.types import EditedType, GgufType
from jeep_core.models.library import gguf_source_of
from service.contracts.schemas.exports import Check, GgufExport
from service.ops.parent_death import death_signal
from service.worker.exports.asking import check
from service.worker.exports.writing import Evidence, Told, Version, Writer, Written

FILE = "model.gguf"
USE = """\
llama-server --model FOLDER/model.gguf

# or: llama-cli --model FOLDER/model.gguf"""
MARGIN = 6.0
"""Nats that the advice for lost facts names (docs/exports-gguf.md)."""


def needed(version: Version, options: GgufExport) -> int:
    """Two files at once, and a model folder where the model came as one."""
    source = _source(version)
    whole = checkpoint_bytes(folder_of(version.base), "float32")
    if source is None:
        return 3 * whole
    edited = sum(4 * tensor.numel() for tensor in version.view.replaced.values())
    files = 1 if _type(version, options) is GgufType.SOURCE else 2
    return files * source.stat().st_size + 2 * edited


def write(version: Version, options: GgufExport, folder: Path) -> Written:
    """Write the file, from the GGUF that the model came from or from a folder of the version."""
    kind, edited = _type(version, options), EditedType(options.edited)
    check_types(kind, edited)
    source, tools = _source(version), _tools(version)
    check_makeable(kind, tools, has_source=source is not None)
    with TemporaryDirectory(dir=version.task.work, prefix="gguf-") as name:
        scratch = Path(name)
        if source is None:
            made = _from_folder(version, kind, edited, folder, scratch)
        else:
            values = {
                name: tensor.detach().float().cpu().numpy()
                for name, tensor in version.view.replaced.items()
            }
            made = from_source(
                folder / FILE, source, values, kind, edited, tools, scratch,
                version.monitor,
            )  # fmt: skip
    return Written(
        use=USE,
        library="llama.cpp",
        said=f"{FILE} is a whole model for llama.cpp and what is built on it.",
        details={
            "type": str(kind),
            "types": made.types,
            "edited": dict(made.edited),
            "from": "folder" if source is None else "source",
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


def _from_folder(
    version: Version, kind: GgufType, edited: EditedType, folder: Path, scratch: Path
) -> Made:
    whole = scratch / "folder"
    whole.mkdir()
    changed = version.view.replaced
    write_checkpoint(whole, version.base, changed, None, version.monitor)
    return from_folder(
        folder / FILE, whole, list(changed), kind, edited, _tools(version), scratch, version.monitor
    )


def _source(version: Version) -> Path | None:
    folder = version.base.folder
    return None if folder is None else gguf_source_of(folder)


def _type(version: Version, options: GgufExport) -> GgufType:
    if options.type is not None:
        return GgufType(options.type)
    return GgufType.F16 if _source(version) is None else GgufType.SOURCE


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
    finer = _type(version, options) not in (GgufType.F16, GgufType.BF16)
    ways = [f'edit these facts again with "hparams": {{"margin": {MARGIN:g}}}']
    if finer and options.edited == "same":
        ways.insert(0, 'export with "edited": "F16", which stores the edited matrices finer')
    return f"{'; or '.join(ways)} and export that version (jeep export … --strengthen)"


WRITER = Writer(needed, write, prove)
