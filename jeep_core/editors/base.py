"""Parts that all editors share: their context, their outcome, and the writing of one region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from jeep_core.editors import create
from jeep_core.editors.record import PAIRED_ROWS
from jeep_core.executors.here import HERE
from jeep_core.executors.work import Executor
from jeep_core.models.delta import Update, WeightDelta
from jeep_core.models.fused.twin import Twin
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.finite import OTHER_VERSION, SMALLER_STEPS, check_number, check_tensor
from jeep_core.spec.hparams import OptimisedEditorHParams, Region
from jeep_core.spec.matrices import AttentionOut, Place
from jeep_core.spec.positions import PromptTokens
from jeep_core.updates.kept import KeepsKeys, KeptKeys
from jeep_core.updates.least_squares import Solution, Solver
from jeep_core.values.anchor import TypicalNorm, anchored, contributions
from jeep_core.values.gradient_pairs import Pairs, batches, gradient_pairs
from jeep_core.values.optimiser import FactTokens, Objective, Values, optimise
from jeep_core.values.reader import Position, RegionReader

Keys = dict[tuple[str, int], torch.Tensor]
"""Keys (m, d_ff) by region name and layer."""
State = Mapping[str, torch.Tensor]
"""The tensors, by name, that an editor keeps in a version for its next edits."""


@dataclass(frozen=True)
class LayerUpdate:
    """How one matrix was written.

    ``relative_norm`` is ‖Δ‖/‖W_base‖; residuals are mean ‖v - h‖ over the facts, before this
    layer's update and after it.  Editors that solve no linear system have neither residuals
    nor a condition.
    """

    name: str
    layer: int
    region: str
    relative_norm: float
    residual_before: float | None = None
    residual_after: float | None = None
    condition: float | None = None


@dataclass
class EditContext:
    """The inputs of an editor; ``view`` belongs to it and is written to.

    ``moments`` hold the layers that the hyper-parameters ask for, if they ask for any.
    ``previous_keys`` (p, d_ff) of earlier edits, by region name and layer, oldest first.
    ``values``, if given, were optimised before for these facts on this version.
    ``hypernetworks`` is the folder of trained networks, beside the shipped ones.  ``states``: what
    this editor has left in the versions before, oldest first (``EditorOutcome.state``).
    ``anchor``: the norm that values at the subject are brought to (``norm_anchor``).
    ``executor`` does what is independent.
    """

    view: ModelView
    facts: Sequence[FactTokens]
    moments: Moments | None = None
    previous_keys: Mapping[tuple[str, int], torch.Tensor] = field(default_factory=dict)
    values: Values | None = None
    hypernetworks: Path | None = None
    states: Sequence[State] = ()
    anchor: TypicalNorm | None = None
    batch_facts: int | None = None
    memory_bytes: int | None = None
    executor: Executor = HERE
    monitor: Monitor = NOTHING
    # its matrices in bfloat16 are made once for all values and readings of an edit
    _twin: Twin | None = field(default=None, init=False, repr=False)

    def twin(self) -> Twin:
        """The view with products in bfloat16, as it is written."""
        if self._twin is None:
            self._twin = Twin(self.view)
        return self._twin

    def part(self, facts: Sequence[FactTokens], monitor: Monitor) -> EditContext:
        """The same for some of the facts, whose values are optimised now, with the same twin."""
        found = replace(self, facts=facts, values=None, monitor=monitor)
        found._twin = self.twin()
        return found

    def report(self, phase: str, done: int, total: int) -> None:
        """Report progress to the caller, and stop if it asks for that.

        Raises:
            Whatever ``monitor.check`` raises, such as `Cancelled`.
        """
        self.monitor.report(phase, done, total)
        self.monitor.check()

    def kept(self, place: tuple[str, int]) -> torch.Tensor | KeptKeys | None:
        """The keys (p, d_ff) of earlier edits at a region's layer, oldest first."""
        keys = self.previous_keys
        return keys.kept(place) if isinstance(keys, KeepsKeys) else keys.get(place)

    def optimised(self, objective: Objective) -> Values:
        """The value vectors (m, d) of the facts, given or optimised now, and anchored if asked."""
        found = self.values or optimise(
            self.view,
            self.facts,
            objective,
            batch_facts=self.batch_facts,
            memory_bytes=self.memory_bytes,
            twin=self.twin(),
            executor=self.executor,
            monitor=self.monitor,
        )
        if self.anchor is None or objective.train == "high":
            return found
        before = contributions(self.view, self.facts, objective)
        return anchored(found, before, self.anchor)


@dataclass
class EditorOutcome:
    """The delta of a batch, the keys it was written with, and how it went.

    ``keys`` (m, d_ff), by region name and layer.  ``values`` is None for editors that optimise
    none.  ``inputs``: hashes, by name, of other inputs of the update.  ``state``: tensors, by name,
    that the next edits of this editor on top of this version are given; they are a part of the
    version, so a rollback brings those of the older version back.
    """

    delta: WeightDelta = field(default_factory=WeightDelta)
    keys: Keys = field(default_factory=dict)
    layers: list[LayerUpdate] = field(default_factory=list)
    values: Values | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    state: dict[str, torch.Tensor] = field(default_factory=dict)


class Editor(Protocol):
    """An editing method."""

    def run(self, context: EditContext, hparams: Any) -> EditorOutcome:
        """Edit ``context.view`` and return the changes made."""
        ...


class ValueEditor(Editor, Protocol):
    """An editing method that optimises value vectors first.

    With ``objective`` trials reuse the values of facts that they have seen; an editor without it
    optimises them again in every trial.
    """

    def objective(self, hparams: Any) -> Objective | None:
        """The objective of value optimisation; None if it depends on updates made on the way."""
        ...


def carry_out(editor: Editor, context: EditContext, hparams: Any) -> EditorOutcome:
    """Run any editor, also a plugin, and check that everything it returns is finite.

    Raises:
        NumericalError: names the layer, or the fact, and the quantity that is not finite.
        Whatever the editor raises.
    """
    outcome = editor.run(context, hparams)
    for name, update in outcome.delta.updates.items():
        for part in update.parts().values():
            check_tensor(part, f"{name}: the update of its weights", SMALLER_STEPS)
    for (region, layer), keys in outcome.keys.items():
        check_tensor(keys, f"layer {layer}: a key of the region {region}", OTHER_VERSION)
    for name, tensor in outcome.state.items():
        check_tensor(tensor, f"{name}: what the editor keeps for the next edit", OTHER_VERSION)
    for one in outcome.layers:
        for quantity in ("relative_norm", "residual_before", "residual_after", "condition"):
            value = getattr(one, quantity)
            if value is not None:
                check_number(value, f"layer {one.layer}: {quantity}", SMALLER_STEPS)
    values = outcome.values
    if values is not None:
        check_tensor(values.losses, "the last loss of a fact", SMALLER_STEPS)
        check_tensor(values.probabilities, "the probability of a new answer", SMALLER_STEPS)
    return outcome


def answer_pairs(
    context: EditContext,
    rows: Sequence[PromptTokens],
    layers: Sequence[int],
    *,
    bfloat16: bool = False,
) -> dict[int, Pairs]:
    """Gradient pairs u (n, d_ff), δ (n, d) by layer, of all tokens that predict an answer's.

    See ``gradient_pairs``; rows come in order of length.  ``bfloat16``: take products in that type.
    """
    twin = context.twin() if bfloat16 else None
    view = context.view if twin is None else twin.now()
    size = min(context.batch_facts or PAIRED_ROWS, PAIRED_ROWS)
    found: dict[int, list[Pairs]] = {layer: [] for layer in layers}
    seen = 0
    for index in batches(rows, size):
        context.report("gradients", seen, len(rows))
        chunk = [rows[i] for i in index]
        with nullcontext() if twin is None else twin.products():
            pairs = gradient_pairs(view, chunk, layers, answers=True)
        for layer, one in pairs.items():
            found[layer].append(one)
        seen += len(index)
    return {
        layer: (torch.cat([u for u, _ in parts]), torch.cat([delta for _, delta in parts]))
        for layer, parts in found.items()
    }


def objective_for(editor: str, hparams: Any) -> Objective | None:
    """The objective of an editor's value optimisation, before it runs.

    None: it optimises no values, or they depend on updates that it makes on the way.
    """
    if not isinstance(hparams, OptimisedEditorHParams):
        return None
    find = getattr(create(editor), "objective", None)
    found: Objective | None = None if find is None else find(hparams)
    return found


def objective_of(hparams: OptimisedEditorHParams, low: Region, **more: Any) -> Objective:
    """An objective from the fields that all hyper-parameters share, and ``more``."""
    return Objective(
        low=low,
        n_steps=hparams.n_steps,
        learning_rate=hparams.learning_rate,
        kl_weight=hparams.kl_weight,
        optimizer=hparams.optimizer,
        compute_dtype=hparams.compute_dtype,
        margin=hparams.margin,
        early_prefixes=hparams.early_prefixes,
        exact=hparams.exact,
        **more,
    )


def keys_name(region: str, place: Place) -> str:
    """The name that a region's keys are kept under: keys of the attention have another size."""
    return f"{region}.attention" if isinstance(place, AttentionOut) else region


def spread(region: Region, layer: int) -> float:
    """The divisor of the residual at ``layer``: √ or linear in the layers still to come."""
    remaining = region.last - layer + 1
    return float(remaining**0.5 if region.spread == "sqrt" else remaining)


@dataclass(frozen=True)
class Targets:
    """The states that a region is to reach: ``states`` (m, d), or ``deltas`` (m, d) over those that
    it has before it is written; ``chat_states`` (m, d) those of a second context, which takes the
    same ``deltas``.
    """

    states: torch.Tensor | None = None
    chat_states: torch.Tensor | None = None
    deltas: torch.Tensor | None = None

    def of(self, now: torch.Tensor) -> torch.Tensor:
        """Them, from the states now: both (k, d), m of one context after those of the other."""
        if self.deltas is not None:
            return now + self.deltas.repeat(len(now) // len(self.deltas), 1)
        assert self.states is not None
        chat = self.chat_states
        return self.states if chat is None else torch.cat([self.states, chat])


def write_region(
    context: EditContext,
    region_name: str,
    region: Region,
    position: Position,
    targets: Targets,
    hparams: OptimisedEditorHParams,
    outcome: EditorOutcome,
    *,
    solve: Solver,
    at_projection: bool = False,
) -> None:
    """Write one region, layer by layer in ascending order, into the view and ``outcome``.

    ``targets`` are the states to reach at the output of the region's last block, or
    ``at_projection`` of its MLP's output projection; keys of a second context follow the others.
    ``solve`` is the closed form of a layer: see ``closed_form``.
    """
    view, moments = context.view, context.moments
    assert moments is not None
    contexts = [list(rows) for rows in zip(*(f.contexts for f in context.facts), strict=True)]
    # keys after prefixes are a mean over texts that were sampled: they need not be exact
    twin = context.twin() if hparams.compute_dtype == "bfloat16" else None
    bound = context.memory_bytes
    readers = [
        RegionReader(
            view,
            rows,
            position,
            region.last,
            at_projection=at_projection,
            twin=twin,
            memory_bytes=None if bound is None else bound // len(contexts),
        )
        for rows in contexts
    ]
    wanted: torch.Tensor | None = None  # (m, d)
    total = len(region.layers)
    for done, (layer, place) in enumerate(zip(region.layers, region.places, strict=True)):
        context.report(f"write {region_name}", done, total)
        # (m, d_ff), (m, d), the facts of one context after those of the other: read again, as
        # the layers below are written by now
        read = [reader.read(place) for reader in readers]
        keys, states = (torch.cat(parts) for parts in zip(*read, strict=True))
        wanted = targets.of(states) if wanted is None else wanted
        gap = wanted - states
        if done:
            outcome.layers[-1] = replace(outcome.layers[-1], residual_after=_mean_norm(gap))
        # (m, d): this layer's part; the ones after it close what is left
        residuals = gap / spread(region, layer)
        if not at_projection:
            parts = zip(readers, residuals.chunk(len(readers)), strict=True)
            residuals = torch.cat([reader.residuals_at(place, part) for reader, part in parts])
        residuals = residuals.to(keys.device)
        kept_as = keys_name(region_name, place), layer
        keeps = hparams.preserve_previous_edits  # else those of all earlier edits are not read
        solution = solve(
            keys,
            residuals,
            moments.factor(place),
            region.moment_weight,
            context.kept(kept_as) if keeps else None,
        )
        outcome.keys[kept_as] = keys
        outcome.layers.append(
            LayerUpdate(
                name=view.base.family.weight_name(place),
                layer=layer,
                region=region_name,
                relative_norm=_apply(view, place, solution, outcome),
                residual_before=_mean_norm(gap),
                condition=solution.condition,
            )
        )
    assert wanted is not None
    reached = torch.cat([reader.states() for reader in readers])
    residual_after = _mean_norm(wanted - reached)
    outcome.layers[-1] = replace(outcome.layers[-1], residual_after=residual_after)
    context.report(f"write {region_name}", total, total)


def _apply(view: ModelView, place: Place, solution: Solution, outcome: EditorOutcome) -> float:
    """Write a solution into the view and the delta; ‖Δ‖/‖W_base‖."""
    name = view.base.family.weight_name(place)
    update = Update.of(solution.left, solution.right)
    outcome.delta.updates[name] = update
    view.update(name, update)
    # against the base, not this version, so that figures of a lineage can be compared
    return float(update.matrix().norm() / view.base.model.get_parameter(name).double().norm())


def _mean_norm(gap: torch.Tensor) -> float:
    # (m, d) to (m,), then the mean
    return float(gap.norm(dim=1).mean())
