"""The paper's tables and figures: ``jeep reproduce``.

Writes ``index.html`` (self-contained), ``report.json`` and every plot as PNG and SVG into a folder.
Results are kept in its folder ``work``; the same command continues from there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from jeep_core.atlas import MODELS
from jeep_core.commands import WrongArgument
from jeep_core.commands.second_moments import moments_of
from jeep_core.commands.working import executor_for
from jeep_core.editors import hparams_class, in_order
from jeep_core.editors.networks.hparams import HypernetworkHParams
from jeep_core.editors.networks.storage import load_network
from jeep_core.errors import InvalidHParams, JeepError
from jeep_core.executors.choice import ALONE, Choice
from jeep_core.models.loading import LoadedModel, load
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.reproduce.case_study import case_study
from jeep_core.reproduce.experiments import EXPERIMENTS, Cell, Plan
from jeep_core.reproduce.paper import OURS
from jeep_core.reproduce.runs import Lab, Run, Setting
from jeep_core.reproduce.work import work_through
from jeep_core.spec.finite import json_text
from jeep_core.spec.hparams import Preset, presets_for, validate_hparams
from jeep_core.spec.naming import known_names
from jeep_core.storage.writing import write_atomically
from jeep_core.suites import InvalidSuite, Style, Suite, load_suite
from jeep_core.text.counting import counted
from jeep_core.values.prefixes import sample_prefixes

MOST_JOBS = 8
CASE = "case"
err = Console(stderr=True, highlight=False)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to reproduce.

    ``suite``: of new against true answers, ``zsre``: of right answers, ``-`` for none.  ``edits``:
    M, the most edits together; ``sizes``: those of the tables, empty: M; ``seeds``: each draws M
    cases.  ``also``: presets that become further rows of the comparison.  ``only``: names of
    experiments, empty: all.  ``paper``: whose figures are shown, too.  ``corpus``, ``samples``,
    ``folder``, ``moments``: second moments, as in ``jeep tune``.  ``hypernetworks``: folder of
    trained networks.  ``executor``: whose workers do the runs; None: this process, for a bundled
    model on CPU as many processes as cores; ``processes``: what is known of these, by the fields of
    a `Choice`.  ``command``: how the report says that it was made.  ``models_dir``: the model
    directory.

    Raises:
        WrongArgument: an editor or experiment that is unknown.
    """

    model: str
    out: Path
    suite: str = "atlas-counterfact"
    zsre: str = "atlas-zsre"
    edits: int = 256
    sizes: Sequence[int] = ()
    seeds: Sequence[int] = (0,)
    editors: Sequence[str] = field(default_factory=in_order)
    also: Sequence[str] = ()
    only: Sequence[str] = ()
    paper: Literal["gpt-j", "llama"] | None = None
    corpus: Path | None = None
    samples: int = 0
    folder: Path | None = None
    moments: str | None = None
    presets: Path | None = None
    hypernetworks: Path | None = None
    executor: Choice | None = None
    processes: Mapping[str, int] = field(default_factory=dict)
    command: str = "jeep reproduce"
    device: str = "auto"
    dtype: str = "auto"
    models_dir: Path | None = None

    def __post_init__(self) -> None:
        for name in self.editors:
            try:
                hparams_class(name)
            except InvalidHParams as error:
                raise WrongArgument(f"--editors: {error.problems[0].message}") from None
        known = [*EXPERIMENTS, CASE]
        for name in self.only:
            if name not in known:
                raise WrongArgument(f"--only: no experiment {name!r}; {known_names(name, known)}")


def run(args: Options) -> None:
    """Make the report, and print where it is and how long it took.

    Raises:
        JeepError: a suite, preset or model that is none, too few cases.
        OSError: a file cannot be read or written.
    """
    began = time.monotonic()
    try:
        from jeep_core.reproduce.page import page
        from jeep_core.reproduce.plots import draw
    except ImportError as error:
        raise JeepError(f"{error.name} is missing: pip install 'jeep-edit[report]'") from None
    suites = _suites(args)
    base = load(args.model, args.device, args.dtype, args.models_dir)
    settings, missing = _settings(base, args)
    if OURS not in settings:
        raise JeepError(f"{args.model} has no preset of {OURS}: make one with `jeep tune`")
    wanted = args.only or [*EXPERIMENTS, CASE]
    args.out.mkdir(parents=True, exist_ok=True)
    with _bars() as bars:
        count = max(s.hparams.prefix_count for s in settings.values() if s.hparams is not None)
        lab = _lab(args, base, suites, count, Monitor(bars.phase))
        plan = _plan(args, lab, suites, settings)
        experiments = _experiments(lab, plan, [name for name in wanted if name in EXPERIMENTS])
        choice = _executor(args, base)
        with closing(executor_for(choice, base)) as executor:
            rows = work_through(lab, _all_runs(experiments), bars.run, executor)
        case = case_study(lab, plan) if CASE in wanted else None
    figures = {name: [cell.figures(rows) for cell in cells] for name, cells in experiments.items()}
    report: dict[str, Any] = {
        "command": args.command,
        "model": base.name,
        "family": base.family.name,
        "dtype": str(base.dtype).removeprefix("torch."),
        "model_hash": base.model_hash,
        "paper": args.paper or _paper_model(base),
        "contrast": plan.contrast,
        "accuracy": plan.accuracy,
        "most": plan.most,
        "seeds": list(plan.seeds),
        "machine": {**_machine(base), "executor": choice.executor, "processes": choice.count},
        "left_out": lab.left_out,
        "missing": missing,
        "settings": {name: _shown(setting) for name, setting in settings.items()},
        "experiments": figures,
        "case": case,
        "runs": len(rows),
        "kept_runs": lab.kept,
        "seconds": round(time.monotonic() - began),
    }
    plots = draw(figures, args.out)
    write_atomically(
        args.out / "report.json", json_text(report, "the report", indent=1, ensure_ascii=False)
    )
    write_atomically(args.out / "index.html", page(report, plots))
    print(f"{args.out / 'index.html'}: {report['seconds']} s")


def _suites(args: Options) -> dict[str, Suite]:
    names = [name for name in (args.suite, args.zsre) if name != "-"]
    if not names:
        raise JeepError("there is no suite: give --suite or --zsre")
    return {name: _suite(name) for name in names}


def _suite(name: str) -> Suite:
    try:
        return load_suite(name)
    except InvalidSuite as error:
        raise JeepError(f"{name} is no suite: {error}") from None


def _settings(base: LoadedModel, args: Options) -> tuple[dict[str, Setting], dict[str, str]]:
    """The editors that can run on this model with their presets, and why the others cannot."""
    settings: dict[str, Setting] = {}
    missing: dict[str, str] = {}
    known = presets_for(base.name, args.presets, base.shape)
    for editor in args.editors:
        preset = next((p for p in known if p.editor == editor), None)
        if preset is None:
            missing[editor] = "there is no preset for this model"
            continue
        setting = _setting(base, preset)
        try:
            _check_network(base, setting, args)
        except JeepError as error:
            missing[editor] = str(error)
            continue
        settings[editor] = setting
    names = {preset.name: preset for preset in known}
    for name in args.also:
        if name not in names:
            raise JeepError(f"{base.name} has no preset {name!r}; {known_names(name, names)}")
        row = name.replace(f"-{Path(base.name).name}", "")
        setting = _setting(base, names[name])
        _check_network(base, setting, args)
        settings[name if row in settings else row] = setting
    return settings, missing


def _setting(base: LoadedModel, preset: Preset) -> Setting:
    hparams = validate_hparams(hparams_class(preset.editor), preset.hparams, base.n_layers)
    return Setting(preset.editor, hparams, preset.name)


def _check_network(base: LoadedModel, setting: Setting, args: Options) -> None:
    if isinstance(setting.hparams, HypernetworkHParams):
        load_network(base, setting.editor, setting.hparams, args.hypernetworks)


def _lab(
    args: Options,
    base: LoadedModel,
    suites: Mapping[str, Suite],
    prefixes: int,
    monitor: Monitor = NOTHING,
) -> Lab:
    folder = args.folder or args.out / "work" / "moments"
    return Lab(
        base,
        suites,
        args.edits,
        moments_of(base, args.editors, args.corpus, args.samples, folder, args.moments),
        sample_prefixes(base, prefixes),
        args.out / "work",
        args.hypernetworks,
        monitor,
    )


def _plan(
    args: Options,
    lab: Lab,
    suites: Mapping[str, Suite],
    settings: Mapping[str, Setting],
) -> Plan:
    styles = {suite.style: name for name, suite in suites.items()}
    fewest = min(len(lab.cases(name, args.seeds[0])) for name in suites)
    if fewest < args.edits:
        raise JeepError(
            f"a suite has {counted(fewest, 'case')} that this model can be asked, not {args.edits}"
        )
    sizes = args.sizes or [args.edits]
    if max(sizes) > args.edits:
        raise JeepError(f"--sizes are at most --edits ({args.edits})")
    return Plan(
        settings,
        lab.base.n_layers,
        args.edits,
        sizes,
        args.seeds,
        styles.get(Style.CONTRAST),
        styles.get(Style.ACCURACY),
    )


def _experiments(lab: Lab, plan: Plan, names: Sequence[str]) -> dict[str, list[Cell]]:
    return {name: list(EXPERIMENTS[name](plan)) for name in names}


def _all_runs(experiments: Mapping[str, Sequence[Cell]]) -> Iterator[Run]:
    for cells in experiments.values():
        for cell in cells:
            yield from cell.runs


def _executor(args: Options, base: LoadedModel) -> Choice:
    """The executor that was chosen; processes have this one's threads together.

    A bundled model is small: one process a core.  Others share their cores, or the GPU.
    """
    found = args.executor
    if found is None:
        alone = base.name not in MODELS or base.device.type != "cpu"
        known: dict[str, Any] = {"workers": min(os.cpu_count() or 1, MOST_JOBS), **args.processes}
        found = Choice(executor="processes", **known)
        if alone or found.workers == 1:
            found = ALONE
    if found.executor == "processes" and found.threads is None:
        found = replace(found, threads=max(1, torch.get_num_threads() // found.workers))
    return found


def _paper_model(base: LoadedModel) -> str:
    """The model of the paper that is built alike: blocks side by side, or one after the other."""
    return "gpt-j" if base.family.is_parallel(base.model) else "llama"


def _shown(setting: Setting) -> dict[str, Any]:
    hparams = setting.hparams
    return {
        "preset": setting.preset,
        "hparams": hparams.model_dump(mode="json") if hparams else None,
    }


def _machine(base: LoadedModel) -> dict[str, Any]:
    cuda = base.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(base.device) if cuda else "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


@dataclass
class _Bars:
    """Progress bars: all runs, and the phase of the current one."""

    progress: Bars

    def __post_init__(self) -> None:
        self._all = self.progress.add_task("cases", total=1)
        self._now = self.progress.add_task("", total=1, visible=False)

    def run(self, run: Run, done: int, total: int) -> None:
        """A run begins."""
        text = f"{run.suite}, {run.setting.editor or 'unedited'}, {counted(len(run.draw), 'edit')}"
        self.progress.update(self._all, description=text, completed=done, total=total)

    def phase(self, phase: str, done: int, total: int) -> None:
        """How far a run is."""
        self.progress.update(
            self._now, description=phase, completed=done, total=total, visible=done < total
        )


@contextmanager
def _bars() -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=err) as progress:
        yield _Bars(progress)
