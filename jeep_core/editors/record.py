"""The record of an editor: all that the rest of the project knows about one; needs no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jeep_core.editors.networks.hparams import HypernetworkHParams
from jeep_core.moments.source import may_need_moments
from jeep_core.spec.hparams import EditorHParams, Region

Grid = Mapping[str, Sequence[Any]]
"""Values to try by path, such as ``low.clamp`` or ``learning_rate``."""
Rule = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From the hyper-parameters that a probe proposes to those of an editor."""

PAIRED_ROWS = 32
"""Rows whose gradients are taken together."""
TRIED_ROWS = 128
"""Rows at most of which a try of a step's size is made."""
_TARGET = re.compile(r"[\w.]+:\w+")


@dataclass(frozen=True)
class RegionSearch:
    """The values that a search tries for one region.

    ``ends`` and ``lengths`` of its layers are shares of the model's depth, ``clamps`` are γ.
    ``start``: end, length and γ that a search without a preset begins with.
    """

    ends: tuple[float, ...]
    lengths: tuple[float, ...]
    clamps: tuple[float, ...]
    start: tuple[float, float, float]


LOW = RegionSearch(
    ends=(0.1, 0.2, 0.3, 0.4),
    lengths=(0.03, 0.2),
    clamps=(0.5, 0.75, 1.0, 1.5, 2.5),
    start=(0.3, 0.2, 0.75),
)
HIGH = RegionSearch(
    ends=(0.55, 0.63, 0.7, 0.78),
    lengths=(0.03, 0.1),
    clamps=(0.15, 0.25, 0.4, 0.6, 1.0),
    start=(0.58, 0.07, 0.25),
)
DEPTHS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
"""Where the one layer of an editor is looked for whose record does not say it."""


@dataclass(frozen=True)
class Tuning:
    """The values that ``jeep tune`` tries for an editor.

    ``regions``: layers, γ and λ of the hyper-parameters' regions, by field.
    ``depths``: where the one layer of the field ``layer`` may be, as shares of the model's depth.
    ``spans``: first and last layer of the field ``layers``, as such shares.
    ``values``: tried besides, or instead, by path.
    ``start``: laid over the setting that a search without a preset begins with.
    """

    regions: Mapping[str, RegionSearch] = field(default_factory=dict)
    depths: tuple[float, ...] = ()
    spans: tuple[tuple[float, float], ...] = ()
    values: Grid = field(default_factory=dict)
    start: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlotStyle:
    """How an editor's line is drawn: colour, marker and line style as matplotlib names them."""

    color: str
    marker: str = "o"
    line: str = "-"


@dataclass(frozen=True)
class Following:
    """How an editor follows gradients, as far as its memory and time depend on it.

    ``layers`` are those whose MLP output projections are written.  ``tunes``: whether Adam moves
    them in ``passes`` over all facts; else pairs of inputs and gradients are taken once, of
    ``every_token`` or of those that predict an answer.  ``batch``: rows that are run together.
    ``ends``: tokens that are learned after an answer.  ``projected``: whether gradients are
    projected by second moments.  ``solves``: whether the update is a least-squares solution.
    ``blocks`` of ``rank``: the network's, 0 without one.  ``tries``: forward passes over
    `TRIED_ROWS` at most that look for the size of the step, after one over all.
    """

    layers: Sequence[int]
    passes: int = 1
    batch: int = PAIRED_ROWS
    tunes: bool = False
    every_token: bool = False
    ends: int = 0
    projected: bool = False
    solves: bool = False
    blocks: int = 0
    rank: int = 0
    tries: int = 0


@dataclass(frozen=True)
class EditorRecord:
    """One editor, built in or the target of an entry point of the group ``jeep.editors``.

    ``hparams`` and ``editor`` are enough; everything else has a default that works.

    Attributes:
        hparams: the class of its hyper-parameters, in a module that needs no torch.  It also
            says, by ``moment_layers``, whether the editor needs second moments.
        editor: its class as ``module:class``; the module is imported when the first edit runs.
        network: for editors with a trained network its class as ``module:class``; ``hparams``
            then is a subclass of ``HypernetworkHParams``.
        tuning: what ``jeep tune`` tries; default: the layers of its regions or its one layer.
        automatic: makes its hyper-parameters from those that a probe proposes (``learning_rate``,
            ``low`` and ``high``); None: ``"auto"`` is refused, as preset and as hyper-parameters.
        rate_share: for an editor that fine-tunes the field ``layers``, its automatic learning rate
            as a share of the root mean square of the matrix that it tunes first: Adam moves every
            weight by about the rate in a step.  Records of earlier probes lack it, so
            ``automatic`` gives a rate, too.
        title: its name in plots; default: the name it is registered under, in capitals.
        order: its place in tables and legends; equal ones are in alphabetical order.
        many_facts: whether it is meant for thousands of facts at once; the report's scaling curve
            shows those that are.
        one_by_one: whether the facts of a batch are optimised and written one after another.
        case_study: whether the report's case study shows what it writes.
        ablation: changes to its hyper-parameters by name, in the order of the table that the
            report makes of them; none: the editor cannot be taken apart.
        sweep: path of the hyper-parameter whose multiples the report measures, such as
            ``high.clamp``.
        plot: how it is drawn; default: in colours that no other editor of the plot has.
        columns_per_fact: whether the factors of its updates have a column for every fact, those of
            one way of asking after those of another; then explanations name single facts.
        keeps_earlier: whether an edit takes those before it into account, by their keys or by a
            state; others just train on, so ``"editor": "auto"`` takes them last in a long line.
        follows: for editors that optimise no values, how its hyper-parameters say that it follows
            gradients; None: ``jeep plan`` does not count it.
    """

    hparams: type[EditorHParams]
    editor: str
    network: str | None = None
    tuning: Tuning | None = None
    automatic: Rule | None = None
    rate_share: float | None = None
    title: str | None = None
    order: float = 100
    many_facts: bool = True
    one_by_one: bool = False
    case_study: bool = False
    ablation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sweep: str | None = None
    plot: PlotStyle | None = None
    columns_per_fact: bool = False
    keeps_earlier: bool = False
    follows: Callable[[Any], Following] | None = None

    @property
    def needs_moments(self) -> bool:
        """Whether the editor can need second moments at all."""
        return may_need_moments(self.hparams)

    @property
    def search(self) -> Tuning | None:
        """The grid of ``jeep tune``, given or derived from ``hparams``; None: there is nothing."""
        if self.tuning is not None or self.network is not None:
            return self.tuning
        types = {name: info.annotation for name, info in self.hparams.model_fields.items()}
        regions = {
            name: HIGH if name == "high" else LOW
            for name, kind in types.items()
            if isinstance(kind, type) and issubclass(kind, Region)
        }
        depths = DEPTHS if types.get("layer") is int else ()
        return Tuning(regions, depths) if regions or depths else None


def taking(*names: str) -> Rule:
    """The rule that takes these fields of a proposal and keeps the defaults of the others."""
    return lambda found: {name: found[name] for name in names}


OUTPUT_RMS = "output_rms"
"""Under this name the record of a probe has the root mean square of every block's MLP output
projection."""

NEWTON = {"optimizer": "newton", "n_prefixes": 2}
"""How values are optimised unless something else is said, by docs/lab-notes.md."""
STEPS = (*NEWTON, "early_prefixes", "compute_dtype")


def steps_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """How a proposal says that values are to be optimised; records of earlier probes do not."""
    return {name: found[name] for name in STEPS if name in found}


def mistake(found: EditorRecord) -> str | None:
    """The first mistake in a record, as the end of a sentence about it; None if there is none."""
    cls = found.hparams
    if not (isinstance(cls, type) and issubclass(cls, EditorHParams)):
        return "its hparams are no subclass of EditorHParams"
    if cls.layer_problems is EditorHParams.layer_problems:
        return f"{cls.__name__} does not define layer_problems"
    if not _TARGET.fullmatch(str(found.editor)):
        return f"its editor must be 'module:class', not {found.editor!r}"
    if found.network is not None:
        if not _TARGET.fullmatch(str(found.network)):
            return f"its network must be 'module:class', not {found.network!r}"
        if not issubclass(cls, HypernetworkHParams):
            return f"it has a network, so {cls.__name__} must be a HypernetworkHParams"
    for name, kind in (
        ("tuning", Tuning),
        ("plot", PlotStyle),
        ("title", str),
        ("ablation", Mapping),
        ("sweep", str),
    ):
        value = getattr(found, name)
        if value is not None and not isinstance(value, kind):
            return f"its {name} must be a {kind.__name__}, not {value!r}"
    if not isinstance(found.order, int | float):
        return f"its order must be a number, not {found.order!r}"
    if found.automatic is not None and not callable(found.automatic):
        return f"its automatic must be a function, not {found.automatic!r}"
    return None
