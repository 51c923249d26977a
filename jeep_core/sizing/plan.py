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
from jeep_core.sizing.verdict import Fit, fit, sharded

SETUP = ("second moments", "factors", "prefixes", "probe")
"""Parts that only the first edit has; the probe only if it is asked for."""
SPREAD = "one worker works on one GPU; spreading a model over several is not built"


@dataclass(frozen=True)
class Plan:
    """Everything that ``jeep plan`` says.

    ``gpus``: how many there are.  ``rates`` None: nothing is known of the GPU's speed, so there are
    counts and no times.  ``parts``: work by part, of the first edit and of every edit.
    ``passes``: of value optimisation for a fact, or over all facts, as counted.
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

    @property
    def spread(self) -> dict[int, int]:
        """Bytes on each GPU with the smallest settings, were blocks spread over so many.

        Powers of two from 2 up to the GPUs that there are, or to 8 if one is too small.
        """
        if self.fit.outcome != "does not fit" and self.gpus == 1:
            return {}
        most = max(self.gpus, 8 if self.fit.outcome == "does not fit" else 1)
        counts = [n for n in (2, 4, 8, 16, 32, 64) if n <= most]
        if self.gpus > 1 and self.gpus not in counts:
            counts.append(self.gpus)
        arch = self.known.architecture
        return {n: sharded(arch, self.editing, self.fit.need, n) for n in sorted(counts)}

    def seconds(self, name: str) -> float | None:
        """Time of a part, if the GPU's speed is known and the part runs there."""
        if self.rates is None or (name == "second moments" and self.fit.settings.on_cpu):
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
            "parts_bytes": dict(found.need.parts),
            "peaks_bytes": found.need.peaks,
            "needed_bytes": found.need.total,
            "spread_over": [
                {"gpus": n, "bytes_each": size, "would_fit": size <= self.gpu.usable}
                for n, size in self.spread.items()
            ],
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
    counted = float(editing.passes if passes is None else passes)
    parts = work_of(arch, editing, load, found.settings, counted, probe_prompts)
    return Plan(known, gpu, gpus, editing, load, found, rates, parts, counted)


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
