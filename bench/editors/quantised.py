"""How many edits survive as GGUF: ``python -m bench.editors.quantised``.

Facts of a suite are edited together, once for each margin, and each version is written as the GGUF
file that the model came from in several types and asked in llama.cpp.  Versions and files are
kept in ``--folder``: a run that was broken off goes on.

    python -m bench.editors.quantised FOLDER --suite FILE --folder OUT --llama-cpp FOLDER
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import jeep_core
from jeep_core.editing import edit_checked, prepare_facts, resolve
from jeep_core.editors.presets import own_presets
from jeep_core.errors import JeepError
from jeep_core.exports.gguf.convert import from_source
from jeep_core.exports.gguf.proof import Asked, longest, prove_file, questions_of
from jeep_core.exports.gguf.server import LlamaServer
from jeep_core.exports.gguf.tools import LlamaCpp
from jeep_core.exports.gguf.types import EditedType, GgufType
from jeep_core.models.delta import WeightDelta
from jeep_core.models.library import gguf_source_of
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.of_texts import moments_over
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import contexts_of
from jeep_core.suites import load_suite
from jeep_core.values.prefixes import sample_prefixes

STEPS = 60
"""Passes at most with a margin."""
COLUMNS = ("facts", "prompt", "chat", "paraphrase")


def edited(
    base: LoadedModel, facts: Sequence[Fact], editor: str, margin: float, folder: Path
) -> tuple[ModelView, Any, float]:
    """A version, its hyper-parameters, and the CPU seconds that it took; 0 is no margin."""
    presets = own_presets(base.name, editor, None, shape=base.shape)
    changes = {"margin": margin, "n_steps": STEPS} if margin else {}
    chosen = resolve(base, editor, presets, None, changes, folder / "probes")
    kept, view = folder / f"{editor}-{len(facts)}-{margin:g}.safetensors", ModelView(base)
    if kept.exists():
        view.apply(WeightDelta.load(kept))
        return view, chosen.hparams, 0.0
    prefixes = sample_prefixes(base, chosen.hparams.prefix_count, cache=folder / "prefixes")
    moments = moments_over(base, None, folder=folder / "moments")
    began = time.process_time()
    result = edit_checked(view, facts, editor, chosen.hparams, prefixes=prefixes, moments=moments)
    result.delta.save(kept)
    return result.view, chosen.hparams, time.process_time() - began


def row(
    view: ModelView, facts: Sequence[Fact], contexts: Any, kind: str, tools: LlamaCpp, folder: Path
) -> dict[str, Any]:
    """The figures of one type, ``TYPE`` or ``TYPE/EDITED`` with finer edited matrices."""
    base = view.base
    source = None if base.folder is None else gguf_source_of(base.folder)
    if source is None:
        raise JeepError("the model did not come as a GGUF file: jeep models add FILE")
    whole, _, finer = kind.partition("/")
    out = folder / "asked.gguf"
    out.unlink(missing_ok=True)
    values = {name: tensor.float().numpy() for name, tensor in view.replaced.items()}
    types = GgufType(whole), EditedType(finer or "same")
    made = from_source(out, source, values, *types, tools, folder)
    questions = questions_of(base.tokenizer, facts, contexts, base.chat)
    server = LlamaServer(tools, out, folder / "server.log", longest(questions))
    sheet = prove_file(view, questions, server)
    held = {str(way): asdict(sheet.held(way)) for way in Asked if way is not Asked.NEIGHBOR}
    return {
        "type": kind,
        "types": made.types,
        "bytes": out.stat().st_size,
        "facts": asdict(sheet.facts),
        **held,
        "neighbors": sheet.neighbors_same,
        "other_tokens": sheet.other_tokens,
        "lost": sheet.lost,
    }


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table: of what the version answers, what the file answers, too."""
    lines = [f"| margin | type | {' | '.join(COLUMNS)} | MB |", "|---|---|---|---|---|---|---|"]
    for one in rows:
        held = [f"{one[name]['survived']} of {one[name]['version']}" for name in COLUMNS]
        size = f"{one['bytes'] / 1e6:.1f}"
        lines.append(f"| {one['margin']:g} | {one['type']} | {' | '.join(held)} | {size} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table and write all figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--llama-cpp", type=Path, help="Default: the search path.")
    parser.add_argument("--editor", default="jeep")
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--step", type=int, default=1, help="Take every so many-th case.")
    parser.add_argument("--margins", type=float, nargs="+", default=[0.0, 6.0])
    parser.add_argument("--types", nargs="+", default=["source", "source/F16", "Q4_K_M", "Q8_0"])
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    base = jeep_core.load(args.model, dtype="float32")
    cases = load_suite(args.suite).cases[:: args.step][: args.facts]
    facts, tools, rows = prepare_facts(base, cases), LlamaCpp.find(args.llama_cpp), []
    for margin in args.margins:
        view, hparams, seconds = edited(base, facts, args.editor, margin, args.folder)
        print(f"margin {margin:g}: {seconds:.0f} s of CPU time", flush=True)
        for kind in args.types:
            rows.append(
                {
                    "margin": margin,
                    **row(view, facts, contexts_of(hparams), kind, tools, args.folder),
                }
            )
            print(markdown(rows[-1:]), flush=True)
            (args.folder / "quantised.json").write_text(json.dumps(rows, indent=1))
    print(markdown(rows))


if __name__ == "__main__":
    main()
