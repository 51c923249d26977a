"""Trials: edit a view, measure, throw the edit away.

Optimised values do not depend on how many facts are edited together, so they are computed
once per editor and reused for every batch drawn from the same cases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file

from jeep_core.editing import tokenize
from jeep_core.editors import create
from jeep_core.editors.base import EditContext, EditorOutcome, ValueEditor
from jeep_core.evaluation.metrics import Summary, counterfact_scores, summarise
from jeep_core.facts import Fact
from jeep_core.files import save_whole
from jeep_core.hparams import EditorHParams, OptimisedEditorHParams
from jeep_core.loading import LoadedModel
from jeep_core.moments import Moments
from jeep_core.pauses import Pause, pausing
from jeep_core.values import FactTokens, Objective, Progress, Values
from jeep_core.views import ModelView

FACTS_TOGETHER = 128
"""Facts of a block whose values are kept together."""


@dataclass
class Trials:
    """Cases of one suite on one model; edits start from the base model.

    ``should_stop`` is asked between steps, ``pause`` called before every matrix of every block,
    as in ``jeep_core.edit``.  With ``values_folder`` optimised values are kept there block by
    block, and a computation that was killed goes on from them.
    """

    base: LoadedModel
    cases: Sequence[Fact]
    moments: Moments
    prefixes: Sequence[str]
    progress: Progress | None = None
    hypernetworks: Path | None = None
    should_stop: Callable[[], bool] | None = None
    pause: Pause | None = None
    values_folder: Path | None = None
    _rows: list[FactTokens] = field(default_factory=list)
    _values: dict[str, Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rows = tokenize(self.base, self.cases, self.prefixes)

    def edit(
        self, editor: str, hparams: EditorHParams, index: Sequence[int]
    ) -> tuple[ModelView, EditorOutcome]:
        """An edited view for the cases of these numbers."""
        if hparams.moment_layers:
            self.moments.ensure(hparams.moment_layers, self.progress, self.should_stop, self.pause)
        values = None
        if isinstance(hparams, OptimisedEditorHParams):
            values = self.values(editor, hparams)
        view = ModelView(self.base)
        context = EditContext(
            view,
            [self._rows[i] for i in index],
            self.moments,
            values=None if values is None else values.select(index),
            hypernetworks=self.hypernetworks,
            progress=self.progress,
            should_stop=self.should_stop,
        )
        with pausing(view, self.pause):
            return view, create(editor).run(context, hparams)

    def run(self, editor: str, hparams: EditorHParams, index: Sequence[int]) -> Summary:
        """Edit the cases of these numbers together and score them."""
        view, _ = self.edit(editor, hparams, index)
        return summarise(counterfact_scores(view, [self.cases[i] for i in index]))

    def values(self, editor: str, hparams: OptimisedEditorHParams) -> Values | None:
        """Values of all cases, computed at first use; None if they depend on the batch."""
        objective = cast(ValueEditor, create(editor)).objective(hparams)
        if objective is None:
            return None
        key = editor + value_key(hparams)
        if key not in self._values:
            size = FACTS_TOGETHER if self.values_folder else max(1, len(self._rows))
            starts = range(0, len(self._rows), size)
            parts = [self._block(objective, key, range(i, i + size)) for i in starts]
            self._values[key] = parts[0] if len(parts) == 1 else joined(parts)
        return self._values[key]

    def _block(self, objective: Objective, key: str, index: range) -> Values:
        """The values of one block of cases, kept or computed."""
        start, rows = index.start, self._rows[index.start : index.stop]
        name = hashlib.sha256(f"{key} {start} {len(rows)}".encode()).hexdigest()[:16]
        path = self.values_folder / f"values-{name}.safetensors" if self.values_folder else None
        if path and path.exists():
            return from_tensors(load_file(path, str(self.base.device)))
        view = ModelView(self.base)

        def progress(phase: str, done: int, total: int) -> None:
            if self.progress:
                self.progress(phase, start + done, len(self._rows))

        context = EditContext(
            view, rows, self.moments, progress=progress, should_stop=self.should_stop
        )
        with pausing(view, self.pause):
            values = context.optimised(objective)
        if path:
            save_whole(path, as_tensors(values))
        return values


def joined(parts: Sequence[Values]) -> Values:
    """Values of several lists of facts as those of one."""
    tensors = [as_tensors(part) for part in parts]
    whole = {name: torch.cat([part[name] for part in tensors]) for name in tensors[0]}
    return replace(from_tensors(whole), peak_bytes=max(part.peak_bytes for part in parts))


def as_tensors(values: Values) -> dict[str, torch.Tensor]:
    """The tensors of values by field, on the CPU or where they are."""
    parts = ((f.name, getattr(values, f.name)) for f in fields(Values))
    return {name: part for name, part in parts if isinstance(part, torch.Tensor)}


def from_tensors(tensors: Mapping[str, torch.Tensor]) -> Values:
    """Values from their tensors."""
    missing: dict[str, Any] = {"high": None, "delta_high": None}
    return Values(**{**missing, **tensors})


def value_key(hparams: OptimisedEditorHParams) -> str:
    """What the optimised values depend on: of the regions only end, γ and β."""
    regions = {
        name: (region.last, region.clamp, region.weight_decay)
        for name, region in hparams.regions.items()
    }
    rest = hparams.model_dump(exclude={*regions, "preserve_previous_edits"})
    return repr((regions, sorted(rest.items())))
