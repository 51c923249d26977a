"""Tuning from a terminal: ``python -m jeep_core.commands.tune`` or ``jeep tune``.

Searches a small grid over γ, λ and layers on a validation suite and writes a preset.  Take a
suite whose facts are in no suite that you measure with.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from safetensors import SafetensorError

from jeep_core import atlas
from jeep_core.commands import MODEL_HELP, MODELS_DIR_HELP
from jeep_core.edit import corpus_path, moments_of
from jeep_core.editors import hparams_class
from jeep_core.errors import JeepError
from jeep_core.evaluation.trials import Trials
from jeep_core.evaluation.tuning import (
    Tried,
    Tuned,
    check_out,
    grid,
    regions_of,
    start,
    tune,
    write_preset,
)
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from jeep_core.moments.source import may_need_moments
from jeep_core.probe.choice import check_automatic, hparams_for
from jeep_core.probe.kept import kept
from jeep_core.probe.run import probe
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Preset, presets_for, validate_hparams
from jeep_core.suites import load_counterfact
from jeep_core.values.prefixes import sample_prefixes

EXIT_FAILED = 1
err = Console(stderr=True, highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    args = _parser().parse_args(arguments)
    try:
        _tune(args)
    except (JeepError, OSError, SafetensorError) as error:
        print(f"jeep: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jeep tune", description=__doc__)
    parser.add_argument("--model", required=True, help=MODEL_HELP)
    parser.add_argument("--models-dir", type=Path, help=MODELS_DIR_HELP)
    parser.add_argument("--suite", required=True, help="Multi-CounterFact file, or a bundled suite")
    parser.add_argument("--out", type=Path, required=True, help="preset to write: NAME.yaml")
    parser.add_argument("--editor", default="jeep")
    parser.add_argument("--cases", type=_positive, default=64, help="edited together; default: 64")
    parser.add_argument("--rounds", type=_positive, default=2, help="times around the grid")
    parser.add_argument("--seed", type=int, default=0, help="draws the cases from the suite")
    parser.add_argument("--corpus", type=Path, help="text for second moments, one document a line")
    parser.add_argument("--samples", type=int, default=0, help="tokens; default: 20 per dimension")
    parser.add_argument("--folder", type=Path, help="where second moments are kept")
    parser.add_argument("--moments", help="name of imported ones, instead of a text")
    parser.add_argument(
        "--layers", choices=("search", "auto"), default="search",
        help="auto: those that a probe proposes, then only γ and λ are searched",
    )  # fmt: skip
    parser.add_argument("--probes", type=Path, help="folder of kept probes, for --layers auto")
    parser.add_argument("--presets", type=Path, help="folder of own presets, to start from")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _tune(args: argparse.Namespace) -> None:
    check_out(args.out)
    regions_of(args.editor)
    if args.layers == "auto":
        check_automatic(args.editor)
    if args.moments is None and may_need_moments(hparams_class(args.editor)):
        corpus_path(args.model, args.corpus)  # refused before a model is loaded
    cases, digest = _cases(args.suite, args.cases, args.seed)
    base = load(args.model, args.device, args.dtype, args.models_dir)
    moments = moments_of(base, [args.editor], args.corpus, args.samples, args.folder, args.moments)
    known = [p for p in presets_for(base.name, args.presets) if p.editor == args.editor]
    begin = known[0].hparams if known else start(args.editor, base.n_layers, len(cases))
    values = grid(args.editor, base.n_layers, len(cases))
    if args.layers == "auto":
        begin = _automatic(args, base, cases)
        values = {path: v for path, v in values.items() if not path.endswith(".layers")}
    prefixes = validate_hparams(hparams_class(args.editor), begin, base.n_layers).prefix_count
    with _bars() as bars:
        trials = Trials(base, cases, moments, sample_prefixes(base, prefixes), bars.work)
        tuned = tune(trials, args.editor, begin, values, args.rounds, bars.tried)
    preset = _preset(args, base, tuned, len(cases), digest)
    write_preset(args.out, preset)
    print(f"{args.out}: {preset.origin}")


def _automatic(args: argparse.Namespace, base: LoadedModel, cases: list[Fact]) -> dict[str, Any]:
    """Hyper-parameters of a kept probe of the model, else of a probe of the cases."""
    record = kept(args.probes, base.model_hash) if args.probes else None
    if record is None:
        record = probe(ModelView(base), cases).record()
    return hparams_for(record, args.editor, base.n_layers).model_dump(mode="json")


def _cases(suite: str, count: int, seed: int) -> tuple[list[Fact], str]:
    """Cases drawn from a suite, and the hash of its file.

    Raises:
        JeepError: the file cannot be read or is no Multi-CounterFact file.
    """
    path = atlas.SUITES.get(suite, Path(suite))
    try:
        cases: list[Fact] = list(load_counterfact(suite).cases)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, JeepError) as error:
        raise JeepError(f"{suite} is not a Multi-CounterFact file: {error}") from None
    random.Random(seed).shuffle(cases)
    return cases[:count], digest


def _preset(
    args: argparse.Namespace, base: LoadedModel, tuned: Tuned, cases: int, digest: str
) -> Preset:
    s = tuned.summary
    origin = (
        f"jeep tune: {tuned.tried} settings, {cases} cases of {Path(args.suite).name} "
        f"(sha256 {digest[:16]}, seed {args.seed}); Score {s.score:.1f} "
        f"({s.efficacy:.1f}/{s.generalization:.1f}/{s.locality:.1f}), "
        f"greedy {s.greedy:.1f}/{s.greedy_generalization:.1f}/{s.greedy_locality:.1f}"
    )
    dtype = str(base.dtype).removeprefix("torch.")
    return Preset(args.out.stem, args.editor, base.name, origin, tuned.hparams, dtype)


@dataclass
class _Bars:
    """Progress bars: the current phase, and how many settings are done."""

    progress: Progress

    def __post_init__(self) -> None:
        self._settings = self.progress.add_task("settings", total=None)
        self._now = self.progress.add_task("", total=None, visible=False)

    def work(self, phase: str, done: int, total: int) -> None:
        """Show the phase of one setting."""
        self.progress.update(
            self._now, description=phase, completed=done, total=total, visible=done < total
        )

    def tried(self, tried: Tried) -> None:
        """Show a setting's figures above the bars."""
        self.progress.update(self._settings, completed=tried.done, total=tried.total)
        if tried.summary is None:
            line = f"  {tried.change}: {tried.problem}"
        else:
            s = tried.summary
            line = (
                f"{'*' if tried.best else ' '} {tried.change}: {tried.target:.2f}  "
                f"Score {s.score:.1f} ({s.efficacy:.1f}/{s.generalization:.1f}/{s.locality:.1f}) "
                f"greedy {s.greedy:.0f}/{s.greedy_generalization:.0f}/{s.greedy_locality:.0f}"
            )
        self.progress.console.print(line, markup=False, soft_wrap=True)


@contextmanager
def _bars() -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as progress:
        yield _Bars(progress)


if __name__ == "__main__":
    raise SystemExit(main())
