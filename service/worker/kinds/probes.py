"""Probe jobs: a version is probed, its figures and plots are kept as files of the job."""

from __future__ import annotations

from jeep_core import atlas
from jeep_core.models.loading import LoadedModel, texts_of
from jeep_core.models.views import ModelView
from jeep_core.probe.defaults.choose import BUNDLED_SUITE
from jeep_core.probe.defaults.kept import keep
from jeep_core.probe.defaults.knowledge import NAME, known_facts
from jeep_core.probe.defaults.rule import RULE
from jeep_core.probe.plots import draw
from jeep_core.probe.run import Related, bundled_table, probe
from jeep_core.probe.word_sets import TableFact
from jeep_core.spec.facts import Fact
from jeep_core.spec.finite import json_text
from jeep_core.suites import load_suite
from service.contracts.schemas.probe import RECORD_FILE, ProbePayload, ProbeResult
from service.settings import Settings
from service.store.files import replace
from service.store.versions import BASE
from service.worker.lanes.read_lane import Task
from service.worker.versions.views import fact_of


def run(task: Task) -> ProbeResult:
    """Probe a version; a probe of the base model that proposes layers is kept for ``auto``.

    Raises:
        JeepError: too few prompts can be probed.
        Whatever the task's control raises.
    """
    payload = ProbePayload.model_validate(task.job.payload)
    facts, source = _facts(task, payload)

    found = probe(
        task.view(payload.version),
        facts,
        limit=payload.limit,
        seed=payload.seed,
        related=None if payload.quick else _related(task.base, task.settings, payload),
        executor=task.executor,
        monitor=task.control.monitor,
        quick=payload.quick,
    )
    record = {**found.record(), "suite": source, "version": payload.version}
    task.control.progress("draw", 0, 1)
    replace(task.reports / RECORD_FILE, json_text(record, "the probe").encode())
    files = [RECORD_FILE, *(path.name for path in draw(record, task.reports))]
    task.control.pause()
    automatic = payload.version == BASE and found.hparams is not None
    if automatic:
        keep(task.store.base.probes_folder, record)
    return ProbeResult(
        probe_id=payload.probe_id,
        version=payload.version,
        prompts=len(found.prompts.prompts),
        dropped=found.prompts.dropped,
        low=found.proposal.low if found.proposal else None,
        high=found.proposal.high if found.proposal else None,
        hparams=found.hparams,
        why_no_proposal=found.why_not,
        rule=RULE,
        automatic=automatic,
        files=files,
    )


def _facts(task: Task, payload: ProbePayload) -> tuple[list[Fact], str]:
    """The facts of a job, and their source."""
    if payload.facts is not None:
        return [fact_of(record) for record in payload.facts], "facts of the request"
    name = payload.suite or (BUNDLED_SUITE if task.base.name in atlas.MODELS else None)
    if name is None:
        view = ModelView(task.base)
        return known_facts(view, payload.limit, task.control.monitor), NAME
    if name in atlas.SUITES:
        return list(load_suite(name).cases), name
    suites = task.store.suites
    info = suites.get(name)
    suite = load_suite(suites.path(name), info.format, True, name, info.style)
    return list(suite.cases), name


def _related(base: LoadedModel, settings: Settings, payload: ProbePayload) -> Related | None:
    """Documents of the configured text, for bundled models of the bundled one."""
    bundled = base.name in atlas.MODELS
    corpus = settings.corpus or (atlas.CORPUS if bundled else None)
    if corpus is None:
        return None
    if payload.table is not None:
        table = [TableFact(row.subject, row.relation, row.object) for row in payload.table]
    else:
        table = bundled_table() if bundled else []
    return Related(texts_of(corpus), table)
