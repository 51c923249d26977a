"""Which probe's record an edit takes that names no hyper-parameters, on a model without a preset.

A kept probe of the base model comes first, else the model is probed now on general knowledge, and
that probe is kept.  What was measured is kept; what it proposes is by the rule of this version.  A
record of another version that lacks what the rule goes by is measured again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jeep_core import atlas
from jeep_core.editors.record import OUTPUT_RMS
from jeep_core.errors import Cancelled, JeepError
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.probe.defaults.from_record import Chosen, Source, check_automatic, from_record
from jeep_core.probe.defaults.kept import keep, kept
from jeep_core.probe.defaults.knowledge import NAME, known_facts
from jeep_core.probe.defaults.rule import RULE, suffices
from jeep_core.probe.run import FORMAT, PROMPTS, output_rms, probe
from jeep_core.spec.facts import Fact
from jeep_core.suites import load_suite
from jeep_core.text.chat import has_template

log = logging.getLogger(__name__)

BUNDLED_SUITE = "atlas-counterfact-validation"
QUICK_PROMPTS = 24
"""Prompts of a probe that an edit waits for."""
PROBED_AGAIN = (
    "the kept probe of the model was made by another version, and lacks figures that the "
    "hyper-parameters go by today: the model was probed again"
)


def choose(
    base: LoadedModel,
    editor: str,
    *,
    folder: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    monitor: Monitor = NOTHING,
) -> tuple[Chosen, dict[str, Any]]:
    """Complete hyper-parameters of an editor, and the record of the probe that they are from.

    ``folder``: where probes are kept.  ``changes`` are laid over what is chosen.  A probe that
    proposes nothing is kept as well, so that the next edit does not wait for it again.

    Raises:
        InvalidHParams: an editor without automatic hyper-parameters, wrong changes, a model of too
            few layers.
        JeepError: the kept probe cannot be read.
        Whatever ``monitor.check`` raises.
    """
    check_automatic(editor)
    source: Source = "kept probe"
    record = None if folder is None else kept(folder, base.model_hash)
    again = record is not None and not suffices(record, base.mlp_size)
    if record is None or again:
        record, source = default_probe(base, monitor), "probe now"
        if folder is not None:
            keep(folder, record)
    elif record.get("rule") != RULE:
        made = record.get("rule", "one without a number")
        log.info("the kept probe was made under rule %s: rule %s is applied to it", made, RULE)
    size, chat = base.mlp_size, has_template(base)
    chosen = from_record(record, editor, base.n_layers, size, changes or {}, source, chat=chat)
    if again:
        log.warning(PROBED_AGAIN)
        chosen = replace(chosen, warnings=(PROBED_AGAIN, *chosen.warnings))
    return chosen, record


def default_probe(base: LoadedModel, monitor: Monitor = NOTHING) -> dict[str, Any]:
    """The record of a probe for defaults: small, and on facts that ship.

    Bundled models are probed on the suite that was made for it, others on the general knowledge
    that they have.  Too little evidence is a record that says so and proposes nothing.  All steps
    are reported as the phase ``probe``.

    Raises:
        Whatever ``monitor.check`` raises.
    """
    view, monitor = ModelView(base), _as_one_phase(monitor)
    try:
        if base.name in atlas.MODELS:
            facts: Sequence[Fact] = load_suite(BUNDLED_SUITE).cases
            limit, source = PROMPTS, BUNDLED_SUITE
        else:
            facts = known_facts(view, QUICK_PROMPTS, monitor)
            limit, source = QUICK_PROMPTS, NAME
        found = probe(view, facts, limit=limit, monitor=monitor, quick=True).record()
    except Cancelled:
        raise
    except JeepError as error:
        found = {
            "format": FORMAT,
            "model": base.name,
            "model_hash": base.model_hash,
            "prompts": {"count": 0, "dropped": {}, "original_assumed": 0},
            "rule": RULE,
            "hparams": None,
            "why_no_proposal": str(error),
            OUTPUT_RMS: output_rms(view),
        }
        source = NAME
    return {**found, "suite": source, "parallel": base.family.is_parallel(view.model)}


def record_sha256(record: Mapping[str, Any]) -> str:
    """SHA-256 of a probe's record, by which a manifest names it."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _as_one_phase(monitor: Monitor) -> Monitor:
    return monitor.reporting(lambda _, done, total: monitor.report("probe", done, total))
