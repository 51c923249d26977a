"""Optimised values of single facts, kept in memory and in a folder.

On the base model a fact's values depend on the model, the objective and the fact's own rows
(prefixes included), and, except for rounding, not on the other facts of a batch.  So they serve
every batch that the fact is in, and every editor with the same objective.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from jeep_core.errors import JeepError
from jeep_core.executors.here import HERE
from jeep_core.executors.work import Executor
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.storage.files import load_whole, read_record, save_whole
from jeep_core.storage.looking import listed
from jeep_core.values.objective import FactTokens, Objective, Values
from jeep_core.values.optimiser import optimise

CHUNK_FACTS = 128
"""Facts optimised between two writes to the folder."""
FORMAT = 3
"""To be raised with every change after which the same facts and objective give other values: of
loss, limits, steps, where to stop, order of texts, or type or order of the sums (fused parts, too).
Values kept before are ignored then; else an edit would get those of an earlier release.
"""

OfFact = dict[str, torch.Tensor]
"""One fact's part of the tensors in ``Values``, by field."""


@dataclass
class ValueCache:
    """Values on base models; those that are not known are optimised and kept.

    ``folder`` may be shared by models, objectives, threads and processes: files are written whole
    and never changed.  A computation that was killed continues where its last chunk ended.
    """

    folder: Path | None = None
    _known: dict[str, dict[str, OfFact]] = field(default_factory=dict, repr=False)

    def values(
        self,
        base: LoadedModel,
        facts: Sequence[FactTokens],
        objective: Objective,
        *,
        batch_facts: int | None = None,
        memory_bytes: int | None = None,
        executor: Executor = HERE,
        monitor: Monitor = NOTHING,
    ) -> Values:
        """The values of these facts on the unedited model, in their order, as by ``optimise``.

        Vectors are (m, d) on the model's device.  ``peak_bytes`` covers only the values computed
        now; there is no ``trace``.

        Raises:
            Whatever ``monitor.check`` raises; chunks that were done are kept.
        """
        name = set_key(base, objective)
        known = self._known.setdefault(name, {})
        digests = [fact_key(fact) for fact in facts]
        wanted = dict(zip(digests, facts, strict=True))
        if self.folder is not None:
            _read(self.folder / name, set(wanted) - set(known), known)
        # a fact that is given twice is optimised once; like lengths share a chunk
        missing = sorted(set(wanted) - set(known), key=lambda digest: wanted[digest].shape)
        before, peak = len(wanted) - len(missing), 0

        def report(phase: str, done: int, total: int) -> None:
            monitor.report(phase, before + done, len(wanted))

        for start in range(0, len(missing), CHUNK_FACTS):
            chunk = missing[start : start + CHUNK_FACTS]
            # a view of its own: hooks that give way must not stay on the base model
            view = ModelView(base)
            with giving_way(view, monitor):
                found = optimise(
                    view,
                    [wanted[digest] for digest in chunk],
                    objective,
                    batch_facts=batch_facts,
                    memory_bytes=memory_bytes,
                    executor=executor,
                    monitor=monitor.reporting(report),
                )
            before, peak = before + len(chunk), max(peak, found.peak_bytes)
            tensors = _tensors(found)
            known |= _by_fact(tensors, chunk)
            if self.folder is not None:
                _write(self.folder / name, tensors, chunk)
        together = _joined([known[digest] for digest in digests], base.device)
        return replace(together, peak_bytes=peak)


def set_key(base: LoadedModel, objective: Objective) -> str:
    """Hash of the inputs that all facts of one computation share.

    Of the regions only the last layer, γ, β and the learning rate matter to value optimisation.
    """
    parts = asdict(objective)
    for name, region in (("low", objective.low), ("high", objective.high)):
        parts[name] = region and [
            region.last,
            region.clamp,
            region.weight_decay,
            region.learning_rate,
        ]
    if objective.margin is None:  # as before there was one
        del parts["margin"]
    if not objective.exact:  # likewise
        del parts["exact"]
    parts |= {"format": FORMAT, "model": base.model_hash, "dtype": str(base.dtype)}
    parts["device"] = base.device.type
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def fact_key(fact: FactTokens) -> str:
    """Hash of a fact's tokens and positions, those after its prefixes included."""
    parts = dict(vars(fact))
    if not fact.chat:  # as before there was a second context
        del parts["chat"]
    # not asdict, which copies every list of tokens
    return hashlib.sha256(json.dumps(parts, default=vars).encode()).hexdigest()[:32]


def _tensors(values: Values) -> OfFact:
    parts = {part.name: getattr(values, part.name) for part in fields(values)}
    return {name: t.cpu() for name, t in parts.items() if isinstance(t, torch.Tensor)}


def _by_fact(tensors: OfFact, digests: Sequence[str]) -> dict[str, OfFact]:
    return {
        digest: {name: tensor[i] for name, tensor in tensors.items()}
        for i, digest in enumerate(digests)
    }


def _joined(parts: Sequence[OfFact], device: torch.device) -> Values:
    stacked: dict[str, Any] = {
        # vectors (d,) to (m, d), figures () to (m,)
        name: torch.stack([part[name] for part in parts]).to(device)
        for name in parts[0]
    }
    return Values(**{"high": None, "delta_high": None, **stacked})


def _write(folder: Path, tensors: OfFact, digests: Sequence[str]) -> None:
    # named by its facts: another process that optimises the same chunk writes the same file
    name = hashlib.sha256("".join(digests).encode()).hexdigest()[:32]
    whole = {part: tensor.contiguous() for part, tensor in tensors.items()}
    save_whole(folder / f"{name}.safetensors", whole, {"facts": list(digests)})


def _read(folder: Path, wanted: set[str], known: dict[str, OfFact]) -> None:
    """Add the values of ``wanted`` that the folder has; a file that cannot be read is ignored."""
    for path in listed(folder, "*.safetensors"):
        if not wanted:
            return
        try:
            digests = read_record(path)["facts"]
            here = wanted.intersection(digests)
            if here:
                found = _by_fact(load_whole(path), digests)
                known |= {digest: found[digest] for digest in here}
                wanted = wanted - here
        except (SafetensorError, OSError, KeyError, ValueError, JeepError):
            continue
