"""Tuning: hyper-parameters of an editor for a model, found on a validation suite.

Coordinate search over small grids of layers, γ, λ and what else an editor has: one after the
other, the best so far kept, a few times around.  The search maximises the mean of Score and of
the harmonic mean of the three greedy shares, so that "the model writes it" counts as well as "more
probable than the old answer".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jeep_core.editors import hparams_class
from jeep_core.errors import InvalidHParams, JeepError, NumericalError
from jeep_core.evaluation.metrics import Summary, harmonic_mean
from jeep_core.evaluation.trials import Trials
from jeep_core.spec.hparams import Preset, merge, validate_hparams

Grid = Mapping[str, Sequence[Any]]
"""Values to try by path, such as ``low.clamp`` or ``learning_rate``."""

CLAMPS = {"low": (0.5, 0.75, 1.0, 1.5, 2.5), "high": (0.15, 0.25, 0.4, 0.6, 1.0)}
WEIGHTS_PER_FACT = (0.03, 0.1, 0.3, 1.0, 3.0)
ENDS = {"low": (0.1, 0.2, 0.3, 0.4), "high": (0.55, 0.63, 0.7, 0.78)}
LENGTHS = {"low": (0.03, 0.2), "high": (0.03, 0.1)}
START = {"low": (0.3, 0.2, 0.75), "high": (0.58, 0.07, 0.25)}
DEPTHS = {"rome": (0.1, 0.2, 0.3), "ft-wd": (0.4, 0.55, 0.7, 0.85)}
"""Where the one layer of these editors may lie."""
OWN: Mapping[str, Grid] = {
    "pmet": {
        "low.clamp": (1, 4, 10, 20, 40),
        "learning_rate": (0.2, 0.5, 2),
        "kl_weight": (0.0625, 1),
    },
    "alphaedit": {
        "low.null_space": (1e-3, 5e-3, 2e-2, 5e-2, 0.2),
        "low.moment_weight": (0.01, 0.1, 1, 10),
        "learning_rate": (0.5, 2),
    },
    "rome": {"clamp": (1, 2, 4, 8), "learning_rate": (0.5, 2), "kl_weight": (0.0625, 1)},
    "ft-wd": {
        "learning_rate": (5e-4, 2e-3, 5e-3, 1e-2, 2e-2),
        "weight_decay": (0, 1e-3, 1e-2),
        "decay_towards": ("start", "zero"),
    },
}
"""Values of an editor's other fields, besides γ, λ and layers of regions or instead of them."""


@dataclass(frozen=True)
class Tried:
    """One setting: ``problem`` says why it has no figures."""

    change: str
    done: int
    total: int
    target: float = 0.0
    best: bool = False
    summary: Summary | None = None
    problem: str = ""


@dataclass(frozen=True)
class Tuned:
    """The best setting, its figures, and how many were tried."""

    hparams: dict[str, Any]
    summary: Summary
    tried: int


def target(summary: Summary) -> float:
    """The quantity that is maximised, in percent."""
    greedy = [summary.greedy, summary.greedy_generalization, summary.greedy_locality]
    return (summary.score + harmonic_mean(greedy)) / 2


def regions_of(editor: str) -> list[str]:
    """The regions that an editor writes, low before high; none if it writes one layer.

    Raises:
        JeepError: the editor follows a trained network, so there is nothing to search.
    """
    cls = hparams_class(editor)
    found: list[str] = [name for name in ("low", "high") if name in cls.model_fields]
    if not found and editor not in DEPTHS:
        raise JeepError(f"{editor} cannot be tuned: it writes what a trained network says")
    return found


def start(editor: str, n_layers: int, facts: int) -> dict[str, Any]:
    """Where the search begins for a model without a preset: the paper's depths and γ.

    λ is in samples and is weighed against K Kᵀ of the batch, so it is a share of its facts.
    """
    if editor in DEPTHS:
        return {"layer": _layers(editor, n_layers)[-1]}
    found: dict[str, Any] = {}
    for region in regions_of(editor):
        end, length, clamp = START[region]
        layers = _window(n_layers, end, length)
        found[region] = {"layers": layers, "clamp": clamp, "moment_weight": _weight(0.3, facts)}
    if editor == "alphaedit":
        found["low"] |= {"null_space": 0.02, "moment_weight": 10}
    return found


def grid(editor: str, n_layers: int, facts: int) -> Grid:
    """Layers at several depths, γ, λ as shares of the number of facts, and its own fields."""
    found: dict[str, Sequence[Any]] = {}
    if editor in DEPTHS:
        found["layer"] = _layers(editor, n_layers)
    for region in regions_of(editor):
        windows = [_window(n_layers, e, n) for e in ENDS[region] for n in LENGTHS[region]]
        found[f"{region}.layers"] = [w for i, w in enumerate(windows) if w not in windows[:i]]
        found[f"{region}.clamp"] = CLAMPS[region]
        found[f"{region}.moment_weight"] = [_weight(share, facts) for share in WEIGHTS_PER_FACT]
    return {**found, **OWN.get(editor, {})}


def tune(
    trials: Trials,
    editor: str,
    begin: Mapping[str, Any],
    values: Grid,
    rounds: int = 2,
    report: Callable[[Tried], None] = lambda tried: None,
) -> Tuned:
    """The best setting found from ``begin`` on, on all cases of ``trials`` edited together.

    Raises:
        JeepError: no setting at all could be carried out.
        Whatever the monitor of ``trials`` raises.
    """
    changes = [(p, v) for _ in range(rounds) for p, choices in values.items() for v in choices]
    best, best_summary, seen, problem = dict(begin), None, set(), ""
    for done, (path, value) in enumerate([("start", None), *changes], start=1):
        setting = best if path == "start" else merge(best, _nested(path, value))
        label = path if path == "start" else f"{path} {value}"
        place = (label, done, len(changes) + 1)
        if repr(setting) in seen:
            report(Tried(*place, problem="tried before"))
            continue
        seen.add(repr(setting))
        try:
            summary = _run(trials, editor, setting)
        except (InvalidHParams, NumericalError) as error:
            problem = str(error)
            report(Tried(*place, problem=problem))
            continue
        better = best_summary is None or target(summary) > target(best_summary)
        report(Tried(*place, target(summary), better, summary))
        if better:
            best, best_summary = setting, summary
    if best_summary is None:
        raise JeepError(f"no setting of {editor} could be carried out; the last: {problem}")
    return Tuned(best, best_summary, len(seen))


def write_preset(path: Path, preset: Preset) -> None:
    """Write a preset where ``load_preset`` finds it under the file's name.

    Raises:
        JeepError: the file exists, is not named ``….yaml``, or cannot be written.
    """
    record = {"editor": preset.editor, "model": preset.model, "origin": preset.origin}
    if preset.dtype:
        record["dtype"] = preset.dtype
    text = yaml.safe_dump({**record, "hparams": preset.hparams}, sort_keys=False, width=100)
    check_out(path)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise JeepError(f"the preset cannot be written: {error}") from None


def check_out(path: Path) -> None:
    """Refuse a place that a preset cannot be written to, before the work is done.

    Raises:
        JeepError: see ``write_preset``.
    """
    if path.suffix != ".yaml":
        raise JeepError(f"{path}: a preset is a file named NAME.yaml")
    if path.exists():
        raise JeepError(f"{path} exists already")
    if not path.parent.is_dir():
        raise JeepError(f"{path.parent} is not a folder")


def _run(trials: Trials, editor: str, setting: Mapping[str, Any]) -> Summary:
    checked = validate_hparams(hparams_class(editor), setting, trials.base.n_layers)
    return trials.run(editor, checked, range(len(trials.cases)))


def _nested(path: str, value: Any) -> dict[str, Any]:
    """``{"low": {"clamp": 1}}`` for ``low.clamp``."""
    first, _, rest = path.partition(".")
    return {first: _nested(rest, value) if rest else value}


def _layers(editor: str, n_layers: int) -> list[int]:
    """The layers to try where an editor writes one."""
    return sorted({min(round(depth * n_layers), n_layers - 2) for depth in DEPTHS[editor]})


def _window(n_layers: int, end: float, length: float) -> list[int]:
    """Layers up to the depth ``end``, both as shares of the model."""
    last = min(round(end * n_layers), n_layers - 2)
    first = max(0, last + 1 - max(1, round(length * n_layers)))
    return list(range(first, last + 1))


def _weight(share: float, facts: int) -> float:
    """λ for a share of the facts, to two digits."""
    return float(f"{share * facts:.2g}")
