"""Tuning: hyper-parameters of an editor for a model, found on a validation suite.

Coordinate search over small grids of layers, γ, λ and what else an editor has: one after the
other, the best so far kept, a few times around.  The search maximises the mean of Score and of
the harmonic mean of the three greedy shares, so that "the model writes it" counts as well as "more
probable than the old answer".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from jeep_core.editors import hparams_class
from jeep_core.editors.record import Grid
from jeep_core.editors.search import layers_at, search_of, spans_at, start, weight_for, window
from jeep_core.errors import InvalidHParams, JeepError
from jeep_core.evaluation.metrics import Summary, harmonic_mean
from jeep_core.evaluation.trials import Trials
from jeep_core.spec.hparams import AUTO, EditorHParams, Preset, merge, nested, validate_hparams

__all__ = ["Tried", "Tuned", "grid", "search_of", "start", "target", "tune", "write_preset"]

WEIGHTS_PER_FACT = (0.03, 0.1, 0.3, 1.0, 3.0)
"""λ as shares of the number of facts."""


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


def grid(editor: str, n_layers: int, facts: int) -> Grid:
    """Layers at several depths, γ, λ as shares of the number of facts, and its own fields."""
    search, found = search_of(editor), dict[str, Sequence[Any]]()
    if search.depths:
        found["layer"] = layers_at(search.depths, n_layers)
    if search.spans:
        found["layers"] = spans_at(search.spans, n_layers)
    for name, region in search.regions.items():
        windows = [window(n_layers, e, n) for e in region.ends for n in region.lengths]
        found[f"{name}.layers"] = [w for i, w in enumerate(windows) if w not in windows[:i]]
        found[f"{name}.clamp"] = region.clamps
        found[f"{name}.moment_weight"] = [weight_for(share, facts) for share in WEIGHTS_PER_FACT]
    return {**found, **search.values}


def tune(
    trials: Trials,
    editor: str,
    begin: Mapping[str, Any],
    values: Grid,
    rounds: int = 2,
    report: Callable[[Tried], None] = lambda tried: None,
) -> Tuned:
    """The best setting found from ``begin`` on, on all cases of ``trials`` edited together.

    The choices of one value are tried beside one another where the executor of ``trials`` has
    several workers: all change the setting that was best before them.

    Raises:
        JeepError: no setting at all could be carried out.
        Whatever the monitor of ``trials`` raises.
    """
    steps = [("start", [None]), *([*values.items()] * rounds)]
    total = sum(len(choices) for _, choices in steps)
    best, best_summary, seen, problem, done = dict(begin), None, set[str](), "", 0
    for path, choices in steps:
        before, tried = best, []
        for value in choices:
            done += 1
            setting = before if path == "start" else merge(before, nested(path, value))
            label = path if path == "start" else f"{path} {value}"
            tried.append((Tried(label, done, total), setting, repr(setting) in seen))
            seen.add(repr(setting))
        found = _outcomes(trials, editor, [setting for _, setting, known in tried if not known])
        for place, setting, known in tried:
            outcome = "tried before" if known else next(found)
            if isinstance(outcome, str):
                problem = problem if known else outcome
                report(replace(place, problem=outcome))
                continue
            better = best_summary is None or target(outcome) > target(best_summary)
            report(replace(place, target=target(outcome), best=better, summary=outcome))
            if better:
                best, best_summary = setting, outcome
    if best_summary is None:
        raise JeepError(f"no setting of {editor} could be carried out; the last: {problem}")
    return Tuned(best, best_summary, len(seen))


def write_preset(path: Path, preset: Preset) -> None:
    """Write a preset where ``load_preset`` finds it under the file's name.

    Raises:
        JeepError: the file exists, is not named ``….yaml``, or cannot be written.
    """
    record: dict[str, Any] = {
        "editor": preset.editor,
        "model": preset.model,
        "origin": preset.origin,
    }
    if preset.dtype:
        record["dtype"] = preset.dtype
    if preset.shape:
        record["shape"] = list(preset.shape)
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
    if path.stem == AUTO:
        raise JeepError(f"{path}: no preset is called {AUTO}, which has them chosen: rename it")
    if path.exists():
        raise JeepError(f"{path} exists already")
    if not path.parent.is_dir():
        raise JeepError(f"{path.parent} is not a folder")


def _outcomes(
    trials: Trials, editor: str, settings: Sequence[Mapping[str, Any]]
) -> Iterator[Summary | str]:
    """The figures of each setting, in their order, or why there are none."""
    checked: list[EditorHParams | str] = []
    for setting in settings:
        try:
            cls = hparams_class(editor)
            checked.append(validate_hparams(cls, setting, trials.base.n_layers))
        except InvalidHParams as error:
            checked.append(str(error))
    valid = [one for one in checked if not isinstance(one, str)]
    found = trials.outcomes(editor, valid) if valid else iter(())
    for one in checked:
        yield one if isinstance(one, str) else next(found)
