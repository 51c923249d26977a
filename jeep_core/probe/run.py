"""The whole probe of one version of a model: read, patch, propose, as one JSON record."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from jeep_core import atlas
from jeep_core.editors.record import OUTPUT_RMS
from jeep_core.errors import JeepError
from jeep_core.executors.here import HERE
from jeep_core.executors.work import Executor
from jeep_core.models.giving_way import giving_way
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.probe.bands import band
from jeep_core.probe.defaults.rule import (
    NO_PAIRS,
    RULE,
    Evidence,
    NoProposal,
    Scale,
    hyper_parameters,
)
from jeep_core.probe.patching import Patched, exchange, pairs, restoration
from jeep_core.probe.prompts import Prompts, prepare
from jeep_core.probe.proposal import Proposal, propose
from jeep_core.probe.quick import MOST_PROMPTS, quick_evidence
from jeep_core.probe.readings import Readings, read
from jeep_core.probe.scale import measure
from jeep_core.probe.word_sets import NAMES, Documents, FactTable, TableFact, WordSets, word_sets
from jeep_core.spec.facts import Fact
from jeep_core.text.counting import counted

FORMAT = 2
PROMPTS = 256
LEAST_PROMPTS = 8
UNREAD = ("enrichment_original", "enrichment_target")
"""Evidence of a proposal that a quick probe leaves out: ranks at the subject's last token."""


@dataclass(frozen=True)
class Related:
    """Where related words come from: documents, and a table of facts."""

    documents: Sequence[str]
    table: Sequence[TableFact] = ()


@dataclass(frozen=True)
class Probe:
    """The findings.  ``proposal`` and ``hparams`` are None if ``why_not`` says why.

    ``scale``: what hyper-parameters go by beside the curves.  A quick probe has nothing restored,
    no word sets, and of the readings only what promotes.
    """

    prompts: Prompts
    assumed: int
    readings: Readings
    exchanged: Patched | None
    restored: Patched | None
    scale: Scale
    sets: WordSets | None = None
    proposal: Proposal | None = None
    hparams: dict[str, Any] | None = None
    why_not: str | None = None
    origin: dict[str, Any] = field(default_factory=dict)
    quick: bool = False

    def record(self) -> dict[str, Any]:
        """As JSON.  Lists are per block, from block 0 on; bands are 95 % intervals over prompts."""
        patching = {"exchange": self.exchanged, "restoration": self.restored}
        return {
            "format": FORMAT,
            **self.origin,
            "quick": self.quick,
            "n_layers": self.readings.n_layers,
            "prompts": {
                "count": len(self.prompts.prompts),
                "dropped": self.prompts.dropped,
                "original_assumed": self.assumed,
            },
            "answers": self.readings.record(),
            "branches": {
                branch: band(self.readings.promotion(branch)).record()
                for branch in ("attention", "mlp")
            },
            "patching": {
                name: None if patched is None else patched.record()
                for name, patched in patching.items()
            },
            "word_sets": self._words(),
            "measured": asdict(self.scale),
            "rule": RULE,
            "proposal": self._proposal(),
            "hparams": self.hparams,
            "why_no_proposal": self.why_not,
        }

    def _proposal(self) -> dict[str, Any] | None:
        """The proposal, without evidence of what a quick probe does not read."""
        if self.proposal is None:
            return None
        found = self.proposal.record()
        if self.quick:
            evidence = found["evidence"]
            found["evidence"] = {k: v for k, v in evidence.items() if k not in UNREAD}
        return found

    def _words(self) -> dict[str, Any] | None:
        words, sets = self.readings.words, self.sets
        if words is None or sets is None:
            return None
        found: dict[str, Any] = {
            "prompts_without_documents": sets.without_documents,
            "prompts_without_facts": sets.without_facts,
        }
        for i, name in enumerate(NAMES):
            some = words[:, i]
            some = some[~some.isnan().any(dim=1)]
            sizes = [len(tokens[i]) for tokens in sets.tokens] if i < len(NAMES) - 1 else None
            found[name] = {
                "prompts": len(some),
                "mean_tokens": None if sizes is None else sum(sizes) / len(sizes),
                "embedding": band(some[:, :1]).record() if len(some) else None,
                "output": band(some[:, 1:]).record() if len(some) else None,
            }
        return found


def probe(
    view: ModelView,
    facts: Sequence[Fact],
    *,
    limit: int = PROMPTS,
    seed: int = 0,
    related: Related | None = None,
    executor: Executor = HERE,
    monitor: Monitor = NOTHING,
    quick: bool = False,
) -> Probe:
    """Probe a version of a model on ``limit`` facts drawn from ``facts``.

    A fact without ``target_true`` is probed with the model's own answer as the original one.
    Word sets are followed if ``related`` says where words come from.  ``executor`` reads and
    patches states.

    ``quick``: only what a proposal rests on, and of no more than 64 prompts: of so many as
    settle it, see ``jeep_core.probe.quick``.

    Raises:
        JeepError: fewer than eight prompts can be probed.
        Whatever ``monitor.check`` raises.
    """
    drawn = list(facts)
    random.Random(seed).shuffle(drawn)
    with giving_way(view, monitor):
        prompts = prepare(view, drawn[: min(limit, MOST_PROMPTS) if quick else limit])
        some = prompts.prompts
        if len(some) < LEAST_PROMPTS:
            raise JeepError(
                f"{counted(len(some), 'prompt')} can be probed, "
                f"at least {LEAST_PROMPTS} are needed; left out: {prompts.dropped or 'none'}"
            )
        sets, restored = None, None
        if quick:
            used, readings, exchanged = quick_evidence(view, some, seed, monitor)
            some = some[:used]
        else:
            if related is not None:
                documents, table = Documents(related.documents), FactTable(related.table)
                sets = word_sets(view.base.tokenizer, some, documents, table)
            readings = read(view, some, sets, monitor, executor=executor)
            drawn_pairs = pairs(view, some, seed)
            exchanged = exchange(view, drawn_pairs, monitor, executor) if drawn_pairs else None
            restored = restoration(view, some, monitor, seed, executor)
        scale = measure(view, some)
        proposal, hparams, why_not = _proposed(readings, exchanged, scale)
    origin = {
        "model": view.base.name,
        "model_hash": view.base.model_hash,
        "weights_sha256": view.weights_sha256(),
        "seed": seed,
        OUTPUT_RMS: output_rms(view),
    }
    return Probe(
        replace(prompts, prompts=some), sum(prompt.assumed for prompt in some),
        readings, exchanged, restored, scale, sets, proposal, hparams, why_not, origin, quick,
    )  # fmt: skip


def output_rms(view: ModelView) -> list[float]:
    """The root mean square of the numbers in every block's MLP output projection.

    Fine-tuning editors take their steps by it: one of Adam moves every number by the learning rate.
    """
    family, model = view.base.family, view.model
    # (d, d_ff), or (d_ff, d) in a ``Conv1D``
    names = [family.weight_name(i) for i in range(view.base.n_layers)]
    # one after the other: copies in float32 of all of them would be a third of the model
    return [_rms(model.get_parameter(name).detach()) for name in names]


def _rms(weight: torch.Tensor) -> float:
    """The root mean square of a tensor of any shape, its sum in float32."""
    size = torch.linalg.vector_norm(weight, dtype=torch.float32)
    return float(size) / math.sqrt(weight.numel())


def _proposed(
    readings: Readings, exchanged: Patched | None, scale: Scale
) -> tuple[Proposal | None, dict[str, Any] | None, str | None]:
    """A proposal and its hyper-parameters, or the reason why there are none."""
    try:
        if exchanged is None:
            raise NoProposal(NO_PAIRS)
        found = propose(readings, exchanged, scale.parallel)
        before = float(exchanged.own_before.mean())
        evidence = Evidence(found.effect.mean, before, found.contrast.mean, scale)
        return found, hyper_parameters(evidence), None
    except NoProposal as reason:
        return None, None, str(reason)


def bundled_table() -> list[TableFact]:
    """The facts of the bundled models."""
    return read_table(atlas.DATA / "facts.jsonl")


def read_table(path: Path) -> list[TableFact]:
    """A fact table: JSON lines with ``subject``, ``relation`` and ``object``.

    Raises:
        JeepError: with the number of the line that is wrong.
    """
    found = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise JeepError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            fields = [row[name] for name in ("subject", "relation", "object")]
        except (ValueError, KeyError, TypeError):
            fields = [None]
        if not all(isinstance(value, str) for value in fields):
            raise JeepError(f"{path}, line {number}: subject, relation and object must be texts")
        found.append(TableFact(*fields))
    if not found:
        raise JeepError(f"{path} has no facts: subject, relation and object as JSON, one a line")
    return found
