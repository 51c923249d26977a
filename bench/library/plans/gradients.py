"""The same of editors that optimise no values: ``python -m bench.library.plans.gradients``.

For each model and editor one process with one thread.  Measured are the peak of the resident size
beside the weights during an edit, and its time on the processor, against the counts of
``jeep_core.sizing`` for the same facts, layers and passes at the rate of the machine's products.
Second moments that CrispEdit needs are taken before.

    python -m bench.library.plans.gradients FOLDER atlas-gptj --editors ft-wd locft ultraedit
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

import jeep_core
from bench.library.plans.values import (
    FACTS,
    SAMPLES,
    _peak,
    _resident,
    _row,
    measured_rates,
    workload,
)
from bench.report import Row, table
from bench.workload import suite_facts
from jeep_core import atlas
from jeep_core.editing import edit_checked, tokenize
from jeep_core.editors import EDITORS, hparams_class, preset_hparams
from jeep_core.editors.search import start
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.moments.of_texts import corpus_texts
from jeep_core.monitor import Monitor
from jeep_core.sizing import memory
from jeep_core.sizing.demand import Settings, editing_of
from jeep_core.sizing.plan import SETUP, work_of
from jeep_core.sizing.source import known_model
from jeep_core.spec.hparams import (
    EditorHParams,
    OptimisedEditorHParams,
    presets_for,
    validate_hparams,
)
from jeep_core.values.prefixes import sample_prefixes

BY_GRADIENTS = [n for n in EDITORS if not issubclass(hparams_class(n), OptimisedEditorHParams)]


def run(models: Sequence[str], editors: Sequence[str], facts: int, samples: int) -> list[Row]:
    """All models and editors, each pair in a process of its own."""
    rows = []
    for model in models:
        for editor in editors:
            command = [sys.executable, "-m", "bench.library.plans.gradients", model]
            command += ["--facts", str(facts), "--samples", str(samples), "--one", editor]
            one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=one_thread
            )
            rows += [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]
    return rows


def measure(model: str, editor: str, count: int, samples: int, folder: Path) -> list[Row]:
    """One edit in this process; second moments are kept in ``folder``."""
    torch.set_num_threads(1)
    known = known_model(model)
    arch = known.architecture
    base = jeep_core.load(model, device="cpu", dtype="float32")
    hparams = _hparams(base, editor, count)
    editing = editing_of(arch, base.name, editor, facts=count)
    facts = suite_facts(count)
    texts = sample_prefixes(base, hparams.prefix_count)
    load = replace(workload(base, tokenize(base, facts, texts)), samples=samples)
    settings = Settings("float32", device="cpu", versions=0)
    rates = measured_rates(arch.d, arch.d_ff)
    moments = Moments(base, corpus_texts(model, atlas.CORPUS), samples, folder, shipped=False)
    if hparams.moment_layers:
        moments.ensure(hparams.moment_layers)
    done: list[int] = []
    passes = [0]

    def report(phase: str, now: int, total: int) -> None:
        if phase == "fine-tune":
            done.append(now)
            passes[0] = total

    def edit(some: int) -> None:
        edit_checked(
            ModelView(base), facts[:some], editor, hparams, prefixes=texts,
            moments=moments if hparams.moment_layers else None, monitor=Monitor(report),
        )  # fmt: skip

    edit(2)  # what libraries set up at their first use is no edit's memory
    done.clear()
    weights = _resident()
    held, spent = _peak(lambda: edit(count), weights)
    # the last report is of all steps, whether they were taken or not
    taken = len(done) - 1 if done else 1
    steps = -(-count // editing.follows.batch) if editing.follows and done else 1
    ran = taken / steps
    need = memory.need(arch, editing, load, settings).parts
    parts = work_of(arch, editing, load, settings, ran)
    counted = [work for name, work in parts.items() if name not in SETUP and name != "measuring"]
    seconds = sum(rates.seconds(replace(work, stored_bytes=0.0)) for work in counted)
    note = f"{ran:g} passes, {count} facts, {rates.single / 1e9:.0f} GFLOP/s"
    most = max(size for name, size in need.items() if name != "moments")
    return [
        _row(f"{model}: memory of {editor}", held / 1e6, most / 1e6, "MB", note),
        _row(f"{model}: time of {editor}", spent, seconds, "s", note),
    ]


def _hparams(base: LoadedModel, editor: str, facts: int) -> EditorHParams:
    """The model's preset, or where a search for one begins."""
    known = {
        p.name: p.hparams for p in presets_for(base.name, shape=base.shape) if p.editor == editor
    }
    if known:
        return preset_hparams(editor, known, None, {}, base.n_layers)[1]
    cls = hparams_class(editor)
    return validate_hparams(cls, start(editor, base.n_layers, facts), base.n_layers)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(atlas.MODELS))
    parser.add_argument("--editors", nargs="+", choices=BY_GRADIENTS, default=BY_GRADIENTS)
    parser.add_argument("--facts", type=int, default=FACTS)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="tokens for second moments")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(args.models[0], args.one, args.facts, args.samples, Path(folder))
        print(json.dumps([asdict(row) for row in rows]))
        return
    print("ours: measured; yardstick: counted; ratio: measured / counted\n")
    print(table(run(args.models, args.editors, args.facts, args.samples)))


if __name__ == "__main__":
    main()
