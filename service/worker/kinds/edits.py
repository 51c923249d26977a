"""Edit jobs: from the version a job starts on to a written version, and to head."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Protocol

from jeep_core.editing import EditResult as CoreResult
from jeep_core.editing import edit_checked
from jeep_core.editors import hparams_class
from jeep_core.evaluation import outcomes as measuring
from jeep_core.evaluation.perplexity import text_path
from jeep_core.executors.here import HERE
from jeep_core.executors.work import Executor
from jeep_core.models.loading import LoadedModel
from jeep_core.models.placement.moving import wait_for
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.moments.source import origin_of
from jeep_core.monitor import Clock, Monitor
from jeep_core.probe.defaults.from_record import Chosen
from jeep_core.spec.exact import asks_for
from jeep_core.spec.facts import Fact
from jeep_core.spec.finite import check_record
from jeep_core.spec.hparams import contexts_of, validate_hparams
from jeep_core.spec.positions import check_facts
from jeep_core.text.counting import counted
from service.contracts.jobs import Job, now
from service.contracts.schemas import (
    AUTO,
    EditPayload,
    EditResult,
    GuardFigures,
    Manifest,
)
from service.contracts.schemas.effects.earlier import EarlierFacts
from service.settings import Settings
from service.store import HeadMoved, Store
from service.store.index.line import Line
from service.store.index.listing import of_job
from service.worker.editing import earlier
from service.worker.editing.automatic import automatic_hparams
from service.worker.editing.guards import GuardMeter, check
from service.worker.editing.measured import Batch, Measured, Measurer
from service.worker.editing.outcome_warnings import outcome_warnings
from service.worker.editing.prefixes import kept_prefixes
from service.worker.editing.records import (
    of_computation,
    outcome,
    protocols_of,
    recorded,
    sha256_of,
)
from service.worker.editing.storing import RECORD, Stored, storing
from service.worker.gate import Gate
from service.worker.lanes.control import JobControl
from service.worker.lanes.lane import Work
from service.worker.lanes.write_task import WriteTask
from service.worker.moments import SharedMoments
from service.worker.threads import edit_threads
from service.worker.versions.views import VersionViews, fact_of


class Edits(Protocol):
    """Computes versions; head does not move."""

    def run(
        self, job: Job, payload: EditPayload, parent: str, control: JobControl
    ) -> tuple[Manifest, ModelView]:
        """Edit on top of ``parent`` and write the new version."""
        ...

    def reapply(
        self, job: Job, source: Manifest, line: Sequence[Manifest], head: str, control: JobControl
    ) -> Manifest:
        """Reapply the batch of ``source`` on top of ``line``; writes nothing but tensors."""
        ...


def prepare(task: WriteTask[Edits]) -> tuple[Job, Work]:
    """Return the job with the version it started from, and its remaining work.

    Head may have moved since an earlier attempt that finished its work.
    """
    written = of_job(task.store, task.job.id)
    if written is not None:
        task = task.started_on(written.parent)
    return task.job, lambda: _run(task, written)


def _run(task: WriteTask[Edits], written: Manifest | None) -> EditResult:
    """Edit and commit, or complete what an interrupted attempt has ``written`` or moved."""
    payload = EditPayload.model_validate(task.job.payload)
    if written is None:
        task.begin(payload.parent, payload.snapshot_name)
        task.control.checkpoint()
        written, view = task.edits.run(task.job, payload, task.parent, task.control)
        task.views.put(written.id, view)
    if not written.staged and task.move is None:
        task.commit(written.id, str(written.parent), f"edit {written.edit_id}")
    assert written.result is not None
    return task.named(written.result, payload.snapshot_name)


@dataclass(frozen=True)
class _Made:
    """An edit that was computed, with what was measured on it; ``payload`` has all its facts."""

    payload: EditPayload
    result: CoreResult
    before: Measured
    after: Measured
    outcomes: Sequence[measuring.Outcome]
    asked: earlier.Found
    stored: Callable[[], Stored]
    report: EarlierFacts | None = None
    warnings: Sequence[str] = ()


class EditRunner:
    """Computes edits on separate views.  Prefixes and moments are stored in the store."""

    def __init__(
        self,
        base: LoadedModel,
        store: Store,
        views: VersionViews,
        settings: Settings,
        gate: Gate,
        moments: SharedMoments | None = None,
        executor: Executor = HERE,
    ) -> None:
        self._shared = moments or SharedMoments(base, store, settings)
        self.base, self._store, self._views = base, store, views
        self._settings, self._gate, self._executor = settings, gate, executor
        megabytes = settings.edit_memory_mb
        self._memory_bytes = None if megabytes is None else megabytes * 2**20
        self._moments: Moments | None = None
        self._moments_from = origin_of(base.name, settings.corpus, settings.moments)
        text = text_path(base.name, settings.perplexity_text)
        self._meter = GuardMeter(text, settings.perplexity_tokens)
        self._measurer = Measurer(self._meter, gate, settings.edit_share)

    def run(
        self, job: Job, payload: EditPayload, parent: str, control: JobControl
    ) -> tuple[Manifest, ModelView]:
        """Edit on top of ``parent`` and write the new version; head does not move.

        Raises:
            JeepError: the request cannot be carried out, or the numbers went wrong.
            GuardFailed: a figure is beyond the limit that the request sets.
            HeadMoved: a rollback came in between.
            Whatever ``control.checkpoint`` raises.
        """
        line = Line(self._store, parent)
        manifest, view = self._computed(job, payload, line, parent, control)
        self._store.versions.write(manifest)
        return manifest, view

    def reapply(
        self, job: Job, source: Manifest, line: Sequence[Manifest], head: str, control: JobControl
    ) -> Manifest:
        """Reapply the batch of ``source`` on top of ``line``, from the record of its version.

        Only its tensors are written.  Its original guards are not measured again.  Inputs that
        differ from the first time (prefixes, second moments) are named in the warnings; those
        that are not computed again (the probe that chose the hyper-parameters) stay recorded.
        Facts that the batch had mended are left out if their own batch is not in ``line`` any
        more.

        Raises:
            As `run`.
        """
        payload = earlier.without_reverted(recorded(source), line)
        made, _ = self._computed(job, payload, line, head, control)
        inputs = {**source.inputs, **made.inputs}
        changed = [name for name, sha in source.inputs.items() if inputs[name] != sha]
        assert made.result is not None
        if source.result is not None:  # the hyper-parameters are those that were chosen then
            made.result.source, made.result.rule = source.result.source, source.result.rule
        made.result.warnings = [f"{source.edit_id}: {said}" for said in made.result.warnings]
        if changed:
            what = ", ".join(sorted(changed))
            made.result.warnings.append(f"{source.edit_id} was first computed with other {what}")
        if gone := len(source.facts) - len(payload.facts):
            what = f"{counted(gone, 'fact')} that it had mended, as their batch is gone"
            made.result.warnings.append(f"{source.edit_id} was edited without {what}")
        return made.model_copy(update={"reapplied_from": source.id, "inputs": inputs})

    def _computed(
        self,
        job: Job,
        payload: EditPayload,
        line: Sequence[Manifest],
        head: str,
        control: JobControl,
    ) -> tuple[Manifest, ModelView]:
        """The version on top of ``line``, not yet written, and its view."""
        began = time.monotonic()
        chosen, inputs = self._hparams(payload, control)
        view = self._views.editing(line)
        made = self._made(view, payload, chosen, line, control)
        payload, result, found, after = made.payload, made.result, made.outcomes, made.after
        measured = None
        if payload.guards is not None:
            facts = [one.fact for one in found]
            # an earlier fact that never takes would fail every later batch
            own = found[: len(found) - len(payload.mended)]
            sent = [one.fact for one in own]
            beside = made.before.beside.of_facts(sent), after.beside.of_facts(sent)
            measured = measuring.figures(own, *beside)
            monitor = self._monitor(control)
            effects = self._meter.between(view, result.view, facts, payload.guards, monitor)
            measured = replace(measured, **effects)
            check(payload.guards, measured)
        control.checkpoint()
        control.progress("commit", 0, 1)
        now_head = self._store.head.read().version
        if now_head != head:  # head.move checks again; failing here leaves no version behind
            raise HeadMoved(head, now_head)
        summary = EditResult(
            **of_computation(result, began),
            edit_id=payload.edit_id,
            version=self._store.versions.new_id(),
            parent=line[-1].id,
            snapshot_name=payload.snapshot_name,
            facts=[outcome(i, one) for i, one in zip(payload.sent_as, found, strict=True)],
            efficacy=measuring.efficacy(after.said.answers),
            chat_efficacy=measuring.efficacy(after.said.chat) if after.said.chat else None,
            greedy_success=fmean(one.success for one in found),
            duplicates=payload.duplicates,
            guards=None if measured is None else GuardFigures(**vars(measured)),
            activated=payload.activate,
            warnings=[*payload.warnings, *chosen.warnings, *result.warnings, *made.warnings],
            source=chosen.source,
            rule=chosen.rule,
            editor_reason=payload.editor_reason,
            moments=self._moments_from if chosen.hparams.moment_layers else None,
            earlier=made.report,
        )
        summary.protocols = protocols_of(summary, chosen.hparams, self.base.name, self._settings)
        return self._manifest(job, payload, summary, made, inputs), result.view

    def _made(
        self,
        view: ModelView,
        payload: EditPayload,
        chosen: Chosen,
        line: Sequence[Manifest],
        control: JobControl,
    ) -> _Made:
        """Edit, ask earlier facts, and edit once more with those that it does not say, if wanted.

        ``view`` is the parent's; it stays as it is.
        """
        wanted = payload.check_earlier
        how_many = self._settings.check_earlier if wanted is None else wanted
        facts = [fact_of(record) for record in payload.facts]
        some = earlier.sample(line, facts, self.base.n_layers, how_many)
        made = self._edited(view, payload, facts, chosen, line, some, control)
        if not payload.repair:
            warnings = earlier.unmended(made.asked, len(some.facts))
            return replace(made, report=earlier.report(some, made.asked), warnings=warnings)
        room = max(0, self._settings.max_facts - len(facts))
        again, warnings = earlier.to_mend(made.asked, contexts_of(chosen.hparams), room)
        before = {one.place for one in made.asked.missing_before}.intersection(
            one.place for one in again
        )
        if again:
            with_them, some = earlier.with_missing(payload, again, line), some.without(again)
            facts += [one.fact for one in again]
            made = self._edited(view, with_them, facts, chosen, line, some, control)
            took = [one.success for one in made.outcomes[-len(again) :]]
            warnings += earlier.in_vain(again, took)
        report = earlier.report(some, made.asked, len(again), len(before))
        return replace(made, report=report, warnings=warnings)

    def _edited(
        self,
        view: ModelView,
        payload: EditPayload,
        facts: Sequence[Fact],
        chosen: Chosen,
        line: Sequence[Manifest],
        some: earlier.Sample,
        control: JobControl,
    ) -> _Made:
        """Edit the facts of a batch on top of ``view``, and measure before and after.

        ``some`` are the earlier facts that the new version is asked.
        """
        check_facts(self.base.tokenizer, facts, self.base.max_positions)
        hparams = chosen.hparams
        batch, monitor = Batch(facts, contexts_of(hparams), payload.guards), self._monitor(control)
        moments, clock = None, Clock()
        if hparams.moment_layers:
            # with all threads, or by the executor, and not while the parent is measured
            moments = self._shared_moments()
            moments.ensure(hparams.moment_layers, monitor, self._executor)
        clock.lap("moments")
        control.progress("measure before", 0, 1)
        # facts that are optimised one by one take as many threads as one fact does
        together = 1 if asks_for(hparams) else len(facts)
        with edit_threads(self.base, together) as free:
            with self._measurer.before(view, batch, free, monitor) as before:
                result = edit_checked(
                    view,
                    facts,
                    payload.editor,
                    hparams,
                    prefixes=kept_prefixes(self._store, self.base, hparams.prefix_count),
                    moments=moments,
                    previous_keys=self._views.live_keys(line, facts),
                    hypernetworks=self._store.base.networks_folder,
                    probes=self._store.base.probes_folder,
                    states=self._views.editor_states(line, payload.editor),
                    memory_bytes=self._memory_bytes,
                    executor=self._executor,
                    monitor=monitor,
                )
            result.seconds["moments"] += clock.seconds["moments"]
            first = before()
            control.checkpoint()
            control.progress("measure after", 0, 1)
            certain = payload.guards is None and not payload.repair
            with (
                storing(self._store, result, beside=certain) as stored,
                self._measurer.earlier(some, view, result.view, free, monitor) as asked,
            ):
                after = self._measurer.measure(result.view, batch, monitor)
            held = asked()
        found = measuring.outcomes(facts, first.said, after.said, result.values)
        return _Made(payload, result, first, after, found, held, stored)

    def _hparams(self, payload: EditPayload, control: JobControl) -> tuple[Chosen, dict[str, str]]:
        """The hyper-parameters, and the hash of the probe that they are from, if any."""
        if payload.hparams != AUTO:
            cls = hparams_class(payload.editor)
            given = validate_hparams(cls, payload.hparams, self.base.n_layers)
            return Chosen(given, "given" if payload.preset is None else "preset"), {}
        found, probe = automatic_hparams(
            self._store, self.base, payload.editor, payload.changes, self._monitor(control)
        )
        return found, {"probe": probe}

    def _manifest(
        self,
        job: Job,
        payload: EditPayload,
        summary: EditResult,
        made: _Made,
        inputs: Mapping[str, str],
    ) -> Manifest:
        summary.warnings += outcome_warnings(summary)
        check_record(summary, RECORD)
        result, stored = made.result, made.stored()
        inputs = {**inputs, **result.inputs, "prefixes": sha256_of(result.prefixes)}
        layers = result.hparams.moment_layers
        if layers:
            moments = self._shared_moments()
            inputs |= {f"moment.{layer}": moments.key(layer) for layer in layers}
        return Manifest(
            id=summary.version,
            parent=summary.parent,
            job_id=job.id,
            edit_id=payload.edit_id,
            editor=payload.editor,
            preset=payload.preset,
            hparams=result.hparams.model_dump(mode="json"),
            facts=payload.facts,
            tensors=stored.tensors,
            artifacts=stored.artifacts,
            inputs=inputs,
            weights_sha256=stored.weights_sha256(self.base),
            created_at=now(),
            result=summary,
            staged=not payload.activate,
            mended=payload.mended,
        )

    def _monitor(self, control: JobControl) -> Monitor:
        return replace(control.monitor, give_way=lambda: self._give_way(control))

    def _give_way(self, control: JobControl) -> None:
        """Let decoding run first; a job that is to end does so here, too."""
        control.look()
        if self._gate.contended:
            wait_for(self.base.devices)  # queued kernels would still run
        self._gate.pause(control.look)

    def _shared_moments(self) -> Moments:
        """The moments of this lane, whose layers stay in use between its edits."""
        if self._moments is None:
            self._moments = self._shared.for_user()
        return self._moments
