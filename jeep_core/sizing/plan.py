"""A plan: what a model and its edits take on one GPU or several, as figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jeep_core.sizing import gradients, operations
from jeep_core.sizing.architecture import Architecture
from jeep_core.sizing.demand import Editing, Settings, Workload
from jeep_core.sizing.devices import Gpu, Rates
from jeep_core.sizing.operations import Work
from jeep_core.sizing.source import Known
from jeep_core.sizing.split import Part, need_on, parts_of
from jeep_core.sizing.verdict import Fit, fit

SETUP = ("second moments", "factors", "prefixes", "probe")
"""Parts that only the first edit has; the probe only if it is asked for."""
SPREAD = "JEEP_DEVICE=balanced spreads the blocks, and the GPUs work one after the other"


@dataclass(frozen=True)
class Plan:
    """Everything that ``jeep plan`` says.

    ``gpus``: how many there are.  ``rates`` None: nothing is known of the GPU's speed, so there are
    counts and no times.  ``parts``: work by part, of the first edit and of every edit.
    ``passes``: of value optimisation for a fact, or over all facts, as counted.  ``spread``: the
    outcome on the fullest of several GPUs, by their number.  ``reason``: of an editor that was left
    to choose.  ``warnings``: about hyper-parameters that were.
    """

    known: Known
    gpu: Gpu
    gpus: int
    editing: Editing
    asked: Workload
    fit: Fit
    rates: Rates | None
    parts: Mapping[str, Work]
    passes: float
    spread: Mapping[int, Fit]
    reason: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def used(self) -> Fit:
        """The outcome on as many GPUs as there are."""
        return self.spread.get(self.gpus, self.fit)

    @property
    def enough(self) -> int | None:
        """The least number of GPUs on which it fits; None: on none of those that were counted."""
        outcomes = {1: self.fit, **self.spread}
        return next((n for n, one in outcomes.items() if one.outcome != "does not fit"), None)

    @property
    def shares(self) -> list[tuple[Part, int]]:
        """The part of each GPU and the most bytes that it holds, of as many GPUs as are used."""
        count = self.gpus if self.gpus > 1 else self.enough or max(self.spread, default=1)
        found, arch = self.spread.get(count, self.fit), self.known.architecture
        return [
            (part, need_on(part, arch, self.editing, found.load, found.settings).total)
            for part in parts_of(arch, count)
        ]

    def seconds(self, name: str) -> float | None:
        """Time of a part, if the GPU's speed is known and the part runs there."""
        if self.rates is None or (name == "second moments" and self.used.settings.on_cpu):
            return None
        return self.rates.seconds(self.parts[name])

    @property
    def setup_s(self) -> float | None:
        """Time that the first edit takes in addition."""
        return self._sum(name for name in self.parts if name in SETUP)

    @property
    def edit_s(self) -> float | None:
        """Time of an edit of all facts."""
        return self._sum(name for name in self.parts if name not in SETUP)

    @property
    def fact_s(self) -> float | None:
        """Time for each fact of such an edit."""
        return None if self.edit_s is None else self.edit_s / self.asked.facts

    def _sum(self, names: Any) -> float | None:
        found = [self.seconds(name) for name in names]
        return None if self.rates is None else sum(one for one in found if one is not None)

    def record(self) -> dict[str, Any]:
        """As JSON: bytes, operations, seconds."""
        arch = self.known.architecture
        sizes = {k: v for k, v in asdict(arch).items() if k not in ("family", "biases")}
        return {
            "model": self.known.name,
            "from": self.known.origin,
            "architecture": {"family": arch.family.name, **sizes},
            "parameters": arch.parameters,
            "stored_parameters": self.known.stored_parameters,
            "gpu": asdict(self.gpu) | {"usable_bytes": self.gpu.usable},
            "gpus": self.gpus,
            "editing": asdict(self.editing),
            "editor_reason": self.reason,
            "warnings": list(self.warnings),
            "workload": asdict(self.asked),
            "memory": self._memory(),
            "time": self._time(),
        }

    def _memory(self) -> dict[str, Any]:
        found = self.fit
        return {
            "outcome": found.outcome,
            "changes": list(found.changes),
            "settings": asdict(found.settings),
            "weights_bytes": found.need.weights,
            "versions_bytes": found.need.versions,
            "decoding_bytes": found.need.decoding,
            "copies_bytes": found.need.copies,
            "parts_bytes": dict(found.need.parts),
            "peaks_bytes": found.need.peaks,
            "needed_bytes": found.need.total,
            "spread_over": [
                {
                    "gpus": n,
                    "outcome": one.outcome,
                    "changes": list(one.changes),
                    "fullest_bytes": one.need.total,
                }
                for n, one in self.spread.items()
            ],
            "each_gpu": [{"holds": str(part), "needed_bytes": size} for part, size in self.shares],
            "note": SPREAD,
        }

    def _time(self) -> dict[str, Any]:
        return {
            "rates": None if self.rates is None else asdict(self.rates),
            "passes": self.passes,
            "parts": {
                name: {**asdict(work), "operations": work.operations, "seconds": self.seconds(name)}
                for name, work in self.parts.items()
            },
            "first_edit_more_s": self.setup_s,
            "edit_s": self.edit_s,
            "fact_s": self.fact_s,
        }


def make(
    known: Known,
    gpu: Gpu,
    editing: Editing,
    load: Workload,
    settings: Settings,
    *,
    gpus: int = 1,
    rates: Rates | None = None,
    passes: float | None = None,
    probe_prompts: int = 0,
) -> Plan:
    """The plan of an edit.

    Args:
        known: the model.
        gpu: where it should work.
        editing: the editor with its layers.
        load: the batch.
        settings: as they are wanted; what is changed to make it fit is in the plan.
        gpus: how many of these GPUs there are.
        rates: of the machine, if they are known.
        passes: of value optimisation for a fact, or over all facts; default: all that the
            editor allows.
        probe_prompts: of a probe before the first edit; 0: none.
    """
    arch = known.architecture
    found = fit(arch, editing, load, settings, gpu.usable)
    spread = {
        n: fit(arch, editing, load, settings, gpu.usable, n)
        for n in _counts(gpus, found.outcome != "does not fit")
    }
    counted = float(editing.passes if passes is None else passes)
    used = spread.get(gpus, found)
    parts = work_of(arch, editing, load, used.settings, counted, probe_prompts)
    return Plan(known, gpu, gpus, editing, load, found, rates, parts, counted, spread)


def _counts(gpus: int, fits: bool) -> list[int]:
    """Powers of two from 2 up to the GPUs that there are, or to 8 if one is too small."""
    if fits and gpus == 1:
        return []
    counts = {n for n in (2, 4, 8, 16, 32, 64) if n <= max(gpus, 1 if fits else 8)}
    return sorted(counts | ({gpus} - {1}))


def work_of(
    arch: Architecture,
    editing: Editing,
    load: Workload,
    settings: Settings,
    passes: float,
    probe_prompts: int = 0,
) -> dict[str, Work]:
    """The work of every part of an edit, and of the first one."""
    if editing.follows is not None:
        return gradients.work_of(arch, editing, load, settings, passes)
    parts = {
        "second moments": operations.moments(arch, editing, load, settings),
        "factors": operations.factoring(arch, editing, settings),
        "prefixes": operations.prefixes(arch, editing, settings),
    }
    if probe_prompts:
        parts["probe"] = operations.probing(arch, load, settings, probe_prompts)
    return parts | {
        "value optimisation": operations.values(arch, editing, load, settings, passes),
        "writing": operations.writing(arch, editing, load, settings),
        "measuring": operations.measuring(arch, load, settings),
    }
