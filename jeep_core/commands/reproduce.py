"""The paper's tables and figures: ``python -m jeep_core.commands.reproduce`` or ``jeep reproduce``.

Writes ``index.html`` (self-contained), ``report.json`` and every plot as PNG and SVG into a folder.
Results are kept in its folder ``work``; the same command continues from there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from safetensors import SafetensorError

from jeep_core.atlas import MODELS
from jeep_core.commands import MODEL_HELP, MODELS_DIR_HELP
from jeep_core.edit import moments_of
from jeep_core.editors import hparams_class
from jeep_core.editors.networks.storage import load_network
from jeep_core.errors import JeepError
from jeep_core.models.loading import LoadedModel, load
from jeep_core.reproduce.case_study import case_study
from jeep_core.reproduce.experiments import EXPERIMENTS, Cell, Plan
from jeep_core.reproduce.runs import Lab, Run, Setting
from jeep_core.reproduce.work import work_through
from jeep_core.spec.finite import json_text
from jeep_core.spec.gradient_hparams import HypernetworkHParams
from jeep_core.spec.hparams import Preset, presets_for, validate_hparams
from jeep_core.storage.files import write_atomically
from jeep_core.suites import InvalidSuite, Style, Suite, load_suite
from jeep_core.values.optimiser import Progress
from jeep_core.values.prefixes import sample_prefixes

EXIT_FAILED = 1
MOST_JOBS = 8
CASE = "case"
ORDER = ("ft-wd", "mend", "rome", "malmen", "memit", "pmet", "alphaedit", "jeep")
"""Editors as the paper orders them."""
err = Console(stderr=True, highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = _parser().parse_args(given)
    try:
        _reproduce(args, args.shown_as or shlex.join(["jeep", "reproduce", *given]))
    except (JeepError, OSError, SafetensorError) as error:
        print(f"jeep: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jeep reproduce", description=__doc__)
    parser.add_argument("--model", required=True, help=MODEL_HELP)
    parser.add_argument("--models-dir", type=Path, help=MODELS_DIR_HELP)
    parser.add_argument("--suite", default="atlas-counterfact", help="of new against true answers")
    parser.add_argument("--zsre", default="atlas-zsre", help="suite of right answers; - for none")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--edits", type=_positive, default=256, help="M; default: 256")
    parser.add_argument("--sizes", type=_positive, nargs="+", help="of the tables; default: M")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each draws M cases")
    parser.add_argument("--editors", nargs="+", default=list(ORDER), choices=ORDER)
    parser.add_argument(
        "--also", nargs="+", default=[], metavar="PRESET", help="further rows of the comparison"
    )
    parser.add_argument("--only", nargs="+", choices=[*EXPERIMENTS, CASE])
    parser.add_argument("--paper", choices=["gpt-j", "llama"], help="figures to stand beside")
    parser.add_argument("--corpus", type=Path, help="text for second moments, one document a line")
    parser.add_argument("--samples", type=int, default=0, help="tokens; default: 20 per dimension")
    parser.add_argument("--folder", type=Path, help="where second moments are kept")
    parser.add_argument("--moments", help="name of imported ones, instead of a text")
    parser.add_argument("--presets", type=Path, help="folder of own presets")
    parser.add_argument("--hypernetworks", type=Path, help="folder of networks of MEND and MALMEN")
    parser.add_argument(
        "--jobs", type=_positive, help="processes; default: 1, for a bundled model on CPU the cores"
    )
    parser.add_argument("--shown-as", help=argparse.SUPPRESS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _reproduce(args: argparse.Namespace, command: str) -> None:
    began = time.monotonic()
    try:
        from jeep_core.reproduce.page import page
        from jeep_core.reproduce.plots import draw
    except ImportError as error:
        raise JeepError(f"{error.name} is missing: pip install 'jeep-edit[report]'") from None
    suites = _suites(args)
    base = load(args.model, args.device, args.dtype, args.models_dir)
    settings, missing = _settings(base, args)
    if "jeep" not in settings:
        raise JeepError(f"{args.model} has no preset of jeep: make one with `jeep tune`")
    wanted = args.only or [*EXPERIMENTS, CASE]
    args.out.mkdir(parents=True, exist_ok=True)
    with _bars() as bars:
        count = max(s.hparams.prefix_count for s in settings.values() if s.hparams is not None)
        lab = _lab(args, base, suites, count, bars.phase)
        plan = _plan(args, lab, suites, settings)
        experiments = _experiments(lab, plan, [name for name in wanted if name in EXPERIMENTS])
        jobs = args.jobs or _jobs(base)
        rows = work_through(
            lab, _all_runs(experiments), bars.run, jobs, partial(_open_lab, args, count)
        )
        case = case_study(lab, plan) if CASE in wanted else None
    figures = {name: [cell.figures(rows) for cell in cells] for name, cells in experiments.items()}
    report: dict[str, Any] = {
        "command": command,
        "model": base.name,
        "family": base.family.name,
        "dtype": str(base.dtype).removeprefix("torch."),
        "model_hash": base.model_hash,
        "paper": args.paper or _paper_model(base),
        "contrast": plan.contrast,
        "accuracy": plan.accuracy,
        "most": plan.most,
        "seeds": list(plan.seeds),
        "machine": {**_machine(base), "processes": jobs},
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


def _suites(args: argparse.Namespace) -> dict[str, Suite]:
    names = [name for name in (args.suite, args.zsre) if name != "-"]
    if not names:
        raise JeepError("there is no suite: give --suite or --zsre")
    return {name: _suite(name) for name in names}


def _suite(name: str) -> Suite:
    try:
        return load_suite(name)
    except InvalidSuite as error:
        raise JeepError(f"{name} is no suite: {error}") from None


def _settings(
    base: LoadedModel, args: argparse.Namespace
) -> tuple[dict[str, Setting], dict[str, str]]:
    """The editors that can run on this model with their presets, and why the others cannot."""
    settings: dict[str, Setting] = {}
    missing: dict[str, str] = {}
    known = presets_for(base.name, args.presets)
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
            raise JeepError(f"{base.name} has no preset {name!r}; it has: {', '.join(names)}")
        row = name.replace(f"-{Path(base.name).name}", "")
        setting = _setting(base, names[name])
        _check_network(base, setting, args)
        settings[name if row in settings else row] = setting
    return settings, missing


def _setting(base: LoadedModel, preset: Preset) -> Setting:
    hparams = validate_hparams(hparams_class(preset.editor), preset.hparams, base.n_layers)
    return Setting(preset.editor, hparams, preset.name)


def _check_network(base: LoadedModel, setting: Setting, args: argparse.Namespace) -> None:
    if isinstance(setting.hparams, HypernetworkHParams):
        load_network(base, setting.editor, setting.hparams, args.hypernetworks)


def _lab(
    args: argparse.Namespace,
    base: LoadedModel,
    suites: Mapping[str, Suite],
    prefixes: int,
    progress: Progress | None = None,
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
        progress,
    )


def _open_lab(args: argparse.Namespace, prefixes: int) -> Lab:
    """The lab of one process of several."""
    base = load(args.model, args.device, args.dtype, args.models_dir)
    return _lab(args, base, _suites(args), prefixes)


def _plan(
    args: argparse.Namespace,
    lab: Lab,
    suites: Mapping[str, Suite],
    settings: Mapping[str, Setting],
) -> Plan:
    styles = {suite.style: name for name, suite in suites.items()}
    fewest = min(len(lab.cases(name, args.seeds[0])) for name in suites)
    if fewest < args.edits:
        raise JeepError(
            f"a suite has {fewest} cases that this model can be asked, not {args.edits}"
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


def _jobs(base: LoadedModel) -> int:
    """A bundled model is small: one process a core.  Others share their cores, or the GPU."""
    alone = base.name not in MODELS or base.device.type != "cpu"
    return 1 if alone else min(os.cpu_count() or 1, MOST_JOBS)


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
        text = f"{run.suite}, {run.setting.editor or 'unedited'}, {len(run.draw)} edits"
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


if __name__ == "__main__":
    raise SystemExit(main())
