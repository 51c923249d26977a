"""``hparams: "auto"``: hyper-parameters of an edit from a probe of the base model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from jeep_core import atlas
from jeep_core.errors import Cancelled, JeepError
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.probe.choice import hparams_for
from jeep_core.probe.kept import keep, kept
from jeep_core.probe.run import probe
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import EditorHParams
from jeep_core.suites import load_suite
from jeep_core.text.chat import has_template
from service.store import Store
from service.store.versions import BASE
from service.worker.failures import Refused

SUITE = "atlas-counterfact-validation"
KEPT_FROM = 32
"""Prompts from which on the probe of an edit's own facts is kept for later edits."""


def automatic_hparams(
    store: Store,
    base: LoadedModel,
    editor: str,
    facts: Sequence[Fact],
    monitor: Monitor,
) -> tuple[EditorHParams, str]:
    """Complete hyper-parameters for ``hparams: "auto"``, and the hash of the record they are from.

    The base model is probed once if no probe of it is stored: on the bundled validation suite if
    it is a bundled model, else on the facts of the edit.

    Raises:
        InvalidHParams: the probe proposes nothing.
        Refused: there is no probe, and the facts are too few for one.
        Whatever ``monitor.check`` raises.
    """
    folder = store.base.probes_folder
    record = kept(folder, base.model_hash)
    if record is None:
        record = _probed(base, facts, monitor)
        if record["prompts"]["count"] >= KEPT_FROM and record["hparams"] is not None:
            keep(folder, record)
    hparams = hparams_for(record, editor, base.n_layers, has_template(base))
    return hparams, hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _probed(base: LoadedModel, facts: Sequence[Fact], monitor: Monitor) -> dict[str, Any]:
    source = SUITE if base.name in atlas.MODELS else "the facts of an edit"
    if source == SUITE:
        facts = load_suite(SUITE).cases
    try:
        found = probe(ModelView(base), facts, monitor=_named_probe(monitor))
    except Cancelled:
        raise
    except JeepError as error:
        if source == SUITE:
            raise
        message = (
            'hparams "auto" needs a probe of this model, and the facts of this edit do not do for '
            f'one ({error}): POST /probes {{"suite": "NAME", "version": "base"}}, or jeep probes '
            "run NAME --version base, with a suite of facts that the model knows (jeep suites add "
            "NAME FILE), then edit again"
        )
        raise Refused("no_probe", message) from None
    return {**found.record(), "suite": source, "version": BASE}


def _named_probe(monitor: Monitor) -> Monitor:
    """Report all steps of the probe as one phase."""
    return monitor.reporting(lambda phase, done, total: monitor.report("probe", done, total))
