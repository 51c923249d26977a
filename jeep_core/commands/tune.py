"""Tuning from a terminal: ``jeep tune``.

Searches a small grid over γ, λ and layers on a validation suite and writes a preset.  Take a
suite whose facts are in no suite that you measure with.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from jeep_core import atlas
from jeep_core.commands.second_moments import moments_of
from jeep_core.commands.working import executor_for
from jeep_core.editors import DEFAULT_EDITOR, hparams_class
from jeep_core.errors import JeepError
from jeep_core.evaluation.trials import Trials
from jeep_core.evaluation.tuning import (
    Tried,
    Tuned,
    check_out,
    grid,
    search_of,
    start,
    tune,
    write_preset,
)
from jeep_core.executors.choice import ALONE, Choice
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.probe.defaults.from_record import check_automatic, from_record
from jeep_core.probe.defaults.kept import kept
from jeep_core.probe.defaults.rule import RULE, suffices
from jeep_core.probe.run import probe
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Preset, presets_for, validate_hparams
from jeep_core.suites import load_counterfact
from jeep_core.text.counting import counted
from jeep_core.values.cache import ValueCache
from jeep_core.values.prefixes import sample_prefixes

err = Console(stderr=True, highlight=False)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to tune.

    ``suite``: a Multi-CounterFact file or a bundled suite, of which ``seed`` draws ``cases`` cases
    that are edited together.  ``out``: the preset to write, ``NAME.yaml``.  ``rounds``: times
    around the grid.  ``corpus``: text for second moments, one document a line; ``samples``: tokens
    of it, 0: by the text (``samples_of``); ``folder``: where they are kept; ``moments``: name of
    imported ones instead. ``layers``: ``search``, or ``auto`` for those that a probe proposes,
    which may be kept in ``probes``. ``presets``: folder of own presets, to start from.
    ``models_dir``: the model directory. ``executor``: whose workers try settings, or optimise and
    measure parts of one.
    """

    model: str
    suite: str
    out: Path
    editor: str = DEFAULT_EDITOR
    cases: int = 64
    rounds: int = 2
    seed: int = 0
    corpus: Path | None = None
    samples: int = 0
    folder: Path | None = None
    moments: str | None = None
    layers: Literal["search", "auto"] = "search"
    probes: Path | None = None
    presets: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    models_dir: Path | None = None
    executor: Choice = ALONE


def run(args: Options) -> None:
    """Tune, write the preset and print where it comes from.

    Raises:
        JeepError: what cannot work is refused before the model is loaded where that is possible.
        OSError: a file cannot be read or written.
    """
    check_out(args.out)
    search_of(args.editor)
    if args.layers == "auto":
        check_automatic(args.editor)
    cases, digest = _cases(args.suite, args.cases, args.seed)
    base = load(args.model, args.device, args.dtype, args.models_dir)
    moments = moments_of(base, [args.editor], args.corpus, args.samples, args.folder, args.moments)
    known = [p for p in presets_for(base.name, args.presets, base.shape) if p.editor == args.editor]
    begin = known[0].hparams if known else start(args.editor, base.n_layers, len(cases))
    values = grid(args.editor, base.n_layers, len(cases))
    if args.layers == "auto":
        begin = _automatic(args, base, cases)
        values = {path: v for path, v in values.items() if not path.endswith(".layers")}
    prefixes = validate_hparams(hparams_class(args.editor), begin, base.n_layers).prefix_count
    with (
        _bars() as bars,
        closing(executor_for(args.executor, base)) as executor,
        # what one worker optimises serves the others
        TemporaryDirectory(prefix="jeep-tune-") as shared,
    ):
        trials = Trials(
            base,
            cases,
            moments,
            sample_prefixes(base, prefixes),
            Monitor(bars.work),
            executor=executor,
            cache=ValueCache(Path(shared) if args.executor.count > 1 else None),
        )
        tuned = tune(trials, args.editor, begin, values, args.rounds, bars.tried)
    preset = _preset(args, base, tuned, len(cases), digest)
    write_preset(args.out, preset)
    print(f"{args.out}: {preset.origin}")


def _automatic(args: Options, base: LoadedModel, cases: list[Fact]) -> dict[str, Any]:
    """Hyper-parameters of a kept probe of the model, else of a probe of the cases."""
    record = kept(args.probes, base.model_hash) if args.probes else None
    if record is None or not suffices(record, base.mlp_size):
        record = probe(ModelView(base), cases).record()
    size = base.mlp_size
    chosen = from_record(record, args.editor, base.n_layers, size, {}, "probe now")
    for warning in chosen.warnings:
        err.print(warning, markup=False)
    return chosen.hparams.model_dump(mode="json")


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


def _preset(args: Options, base: LoadedModel, tuned: Tuned, cases: int, digest: str) -> Preset:
    s = tuned.summary
    origin = (
        f"jeep tune: {counted(tuned.tried, 'setting')}, "
        f"{counted(cases, 'case')} of {Path(args.suite).name} "
        f"(sha256 {digest[:16]}, seed {args.seed}); Score {s.score:.1f} "
        f"({s.efficacy:.1f}/{s.generalization:.1f}/{s.locality:.1f}), "
        f"greedy {s.greedy:.1f}/{s.greedy_generalization:.1f}/{s.greedy_locality:.1f}"
    )
    if args.layers == "auto":
        origin += f"; the rest by rule {RULE} of automatic hyper-parameters"
    dtype = str(base.dtype).removeprefix("torch.")
    return Preset(args.out.stem, args.editor, base.name, origin, tuned.hparams, dtype, base.shape)


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
