"""One edit job: from the version it starts on to a written version, head not yet moved."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from statistics import fmean
from typing import Any

import torch

from jeep_core.decoding.generation import Decoder, Sampling, Scored, checked, score
from jeep_core.decoding.scoring import goes_on
from jeep_core.edit import EditResult as CoreResult
from jeep_core.edit import edit
from jeep_core.editors import hparams_class
from jeep_core.evaluation.perplexity import text_path
from jeep_core.models.loading import LoadedModel
from jeep_core.models.pauses import pausing
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.spec.facts import Fact
from jeep_core.spec.finite import check_record
from jeep_core.text.encoding import count
from jeep_core.values.prefixes import sample_prefixes
from service.contracts.jobs import Job, now
from service.contracts.schemas import (
    AUTO,
    Answer,
    EditPayload,
    EditResult,
    FactOutcome,
    LayerReport,
    Manifest,
)
from service.settings import Settings
from service.store import HeadMoved, Store
from service.worker.kinds.automatic import automatic_hparams
from service.worker.kinds.guards import GuardMeter, Measured, check, figures
from service.worker.lanes.control import JobControl
from service.worker.lanes.gate import Gate
from service.worker.lanes.threads import edit_threads
from service.worker.moments import SharedMoments
from service.worker.versions import tensors
from service.worker.versions.views import VersionViews, fact_of

ANSWER_TOKENS = 10
MEASURE_TOGETHER = 64
LARGE_CHANGE = 100.0
"""‖Δ‖/‖W‖ of a layer from which on a result warns: three times what any preset reaches."""


@dataclass(frozen=True)
class _Measured:
    """A version before or after an edit: answers to its facts, and its guards' figures."""

    answers: list[Answer]
    guarded: Measured


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
    ) -> None:
        self._shared = moments or SharedMoments(base, store, settings)
        self.base, self._store, self._views = base, store, views
        self._settings, self._gate = settings, gate
        megabytes = settings.edit_memory_mb
        self._memory_bytes = None if megabytes is None else megabytes * 2**20
        self._moments: Moments | None = None
        text = text_path(base.name, settings.perplexity_text)
        self._meter = GuardMeter(text, settings.perplexity_tokens)

    def run(self, job: Job, parent: str, control: JobControl) -> tuple[Manifest, ModelView]:
        """Edit on top of ``parent`` and write the new version; head does not move.

        Raises:
            JeepError: the request cannot be carried out, or the numbers went wrong.
            GuardFailed: a figure is beyond the limit that the request sets.
            HeadMoved: a rollback came in between.
            Whatever ``control.checkpoint`` raises.
        """
        payload = EditPayload.model_validate(job.payload)
        line = self._store.versions.lineage(parent)
        manifest, view = self._computed(job, payload, line, parent, control)
        self._store.versions.write(manifest)
        return manifest, view

    def reapply(
        self, job: Job, source: Manifest, line: Sequence[Manifest], head: str, control: JobControl
    ) -> Manifest:
        """Reapply the batch of ``source`` on top of ``line``, from the record of its version.

        Only its tensors are written.  Its original guards are not measured again.  Inputs that
        differ from the first time (prefixes, second moments) are named in the warnings.

        Raises:
            As `run`.
        """
        made, _ = self._computed(job, _recorded(source), line, head, control)
        changed = [name for name, sha in source.inputs.items() if made.inputs.get(name) != sha]
        assert made.result is not None
        made.result.warnings = [f"{source.edit_id}: {said}" for said in made.result.warnings]
        if changed:
            what = ", ".join(sorted(changed))
            made.result.warnings.append(f"{source.edit_id} was first computed with other {what}")
        return made.model_copy(update={"reapplied_from": source.id})

    def _computed(
        self,
        job: Job,
        payload: EditPayload,
        line: Sequence[Manifest],
        head: str,
        control: JobControl,
    ) -> tuple[Manifest, ModelView]:
        """The version on top of ``line``, not yet written, and its view."""
        with edit_threads(self.base, len(payload.facts)):
            return self._on_threads(job, payload, line, head, control)

    def _on_threads(
        self,
        job: Job,
        payload: EditPayload,
        line: Sequence[Manifest],
        head: str,
        control: JobControl,
    ) -> tuple[Manifest, ModelView]:
        facts = [fact_of(record) for record in payload.facts]
        began = time.monotonic()
        given, inputs = self._hparams(payload, facts, control)
        hparams = hparams_class(payload.editor).model_validate(given)
        view = self._views.editing(line)
        control.progress("measure before", 0, 1)
        before = self._measured(view, payload, facts, control)
        result = edit(
            view,
            facts,
            payload.editor,
            hparams=given,
            prefixes=kept_prefixes(self._store, self.base, hparams.prefix_count),
            moments=self._shared_moments() if hparams.moment_layers else None,
            previous_keys=self._views.live_keys(line, facts),
            hypernetworks=self._store.base.networks_folder,
            memory_bytes=self._memory_bytes,
            progress=control.progress,
            should_stop=control.should_stop,
            pause=self._pause,
        )
        control.checkpoint()
        view.apply(result.delta)
        control.progress("measure after", 0, 1)
        after = self._measured(view, payload, facts, control)
        outcomes = fact_outcomes(facts, before.answers, after.answers, result, payload.sent_as)
        found = None
        if payload.guards is not None:
            found = figures(outcomes, before.guarded, after.guarded)
            check(payload.guards, found)
        control.checkpoint()
        control.progress("commit", 0, 1)
        now_head = self._store.head.read().version
        if now_head != head:  # head.move checks again; failing here leaves no version behind
            raise HeadMoved(head, now_head)
        seconds = {**result.seconds, "total": round(time.monotonic() - began, 4)}
        summary = EditResult(
            edit_id=payload.edit_id,
            version=self._store.versions.new_id(),
            parent=line[-1].id,
            snapshot_name=payload.snapshot_name,
            facts=outcomes,
            efficacy=fmean(outcome.after.is_new for outcome in outcomes),
            greedy_success=fmean(outcome.success for outcome in outcomes),
            layers=[LayerReport(**vars(layer)) for layer in result.layers],
            seconds=seconds,
            duplicates=payload.duplicates,
            peak_memory_mb=round(result.values.peak_bytes / 2**20, 1) if result.values else None,
            guards=found,
            activated=payload.activate,
        )
        return self._manifest(job, payload, summary, view, result, inputs), view

    def _hparams(
        self, payload: EditPayload, facts: Sequence[Fact], control: JobControl
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Complete hyper-parameters, and the hash of the probe that they are from, if any."""
        if payload.hparams != AUTO:
            return payload.hparams, {}
        given, probe = automatic_hparams(
            self._store, self.base, payload.editor, facts, control, self._pause
        )
        return given, {"probe": probe}

    def _manifest(
        self,
        job: Job,
        payload: EditPayload,
        summary: EditResult,
        view: ModelView,
        result: CoreResult,
        inputs: Mapping[str, str],
    ) -> Manifest:
        summary.warnings += doubts(summary)
        check_record(summary, "the edit's result")  # before a tensor is stored
        store = self._store
        artifacts: dict[str, torch.Tensor] = dict(result.delta.tensors())
        for (region, layer), keys in result.keys.items():
            artifacts[f"keys.{region}.{layer}"] = keys
        inputs = {**inputs, **result.inputs, "prefixes": _sha256(result.prefixes)}
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
            tensors=[tensors.put(store, n, t) for n, t in sorted(view.replaced.items())],
            artifacts=[tensors.put(store, n, t) for n, t in sorted(artifacts.items())],
            inputs=inputs,
            weights_sha256=view.weights_sha256(),
            created_at=now(),
            result=summary,
            staged=not payload.activate,
        )

    def _measured(
        self, view: ModelView, payload: EditPayload, facts: Sequence[Fact], control: JobControl
    ) -> _Measured:
        with pausing(view, self._pause):
            said = answers(view, facts, control.checkpoint)
            weights = view.weights_sha256() if payload.guards else ""
            guarded = self._meter.measure(view, weights, facts, payload.guards, control.checkpoint)
        return _Measured(said, guarded)

    def _pause(self) -> None:
        """Let decoding run first."""
        if self._gate.contended and self.base.device.type == "cuda":
            torch.cuda.synchronize(self.base.device)  # queued kernels would still run
        self._gate.pause()

    def _shared_moments(self) -> Moments:
        """The moments of this lane, whose layers stay in use between its edits."""
        if self._moments is None:
            self._moments = self._shared.for_user()
        return self._moments


def doubts(summary: EditResult) -> list[str]:
    """Return warnings for a user who sees only that the edit succeeded.

    A change of many times the weights is not an error by itself: on the bundled models presets
    reach 31 (PMET and ROME, 64 facts), in directions that ordinary keys hardly reach.
    """
    found = []
    if summary.efficacy == 0:
        found.append(
            "no fact of this edit took (efficacy 0): see each fact's outcome, and try other "
            "hparams or roll back"
        )
    for layer in summary.layers:
        if layer.relative_norm >= LARGE_CHANGE:
            found.append(
                f"layer {layer.layer} ({layer.name}): the change is {layer.relative_norm:.3g} "
                f"times as large as the weights (‖Δ‖/‖W‖), so other answers may have suffered; "
                "a smaller learning_rate or clamp, or fewer steps, change less"
            )
    return found


def _recorded(source: Manifest) -> EditPayload:
    """The batch of a version as a request for the same edit again."""
    outcomes = source.result.facts if source.result else []
    return EditPayload(
        edit_id=str(source.edit_id),
        facts=source.facts,
        editor=str(source.editor),
        preset=source.preset,
        hparams=source.hparams,
        indices=[outcome.index for outcome in outcomes],
        duplicates=source.result.duplicates if source.result else [],
    )


def kept_prefixes(store: Store, base: LoadedModel, count: int) -> list[str]:
    """The first ``count`` prefixes of this base model, sampled once and kept.

    A file that cannot be read is written again: the same texts are sampled again.
    """
    known = store.base.prefixes()
    if len(known) < count:
        known = sample_prefixes(base, count)
        store.base.keep_prefixes(known)
    return known[:count]


def answers(
    view: ModelView, facts: Sequence[Fact], checkpoint: Callable[[], None] = lambda: None
) -> list[Answer]:
    """A version's answers to each fact's prompt; ``checkpoint`` is called periodically."""
    found: list[Answer] = []
    for start in range(0, len(facts), MEASURE_TOGETHER):
        checkpoint()
        found += _answers_together(view, facts[start : start + MEASURE_TOGETHER])
    return found


def _answers_together(view: ModelView, facts: Sequence[Fact]) -> list[Answer]:
    pairs = [(fact.text, fact.target_new) for fact in facts]
    joins = [fact.join for fact in facts]
    pairs += [(fact.text, fact.target_true) for fact in facts if fact.target_true]
    joins += [fact.join for fact in facts if fact.target_true]
    scored = checked(score(view, pairs, joins))
    true: Any = iter(scored[len(facts) :])
    lengths = [_answer_tokens(view, fact, new) for fact, new in zip(facts, scored, strict=False)]
    decoder = Decoder(view, [fact.text for fact in facts], [Sampling(n) for n in lengths])
    for _ in decoder.steps():
        pass
    return [
        Answer(
            p_new=_probability(new),
            p_true=_probability(next(true)) if fact.target_true else None,
            text=generated.text,
            writes_new=new.greedy and not goes_on(generated.text, fact.target_new),
        )
        for fact, new, generated in zip(facts, scored, decoder.results, strict=False)
    ]


def _answer_tokens(view: ModelView, fact: Fact, new: Scored) -> int:
    """Number of tokens for the new target and its continuation, within the model's positions."""
    room = view.base.max_positions - count(view.base.tokenizer, fact.text)
    return min(max(ANSWER_TOKENS, new.tokens + 1), room)


def fact_outcomes(
    facts: Sequence[Fact],
    before: Sequence[Answer],
    after: Sequence[Answer],
    result: CoreResult,
    indices: Sequence[int],
) -> list[FactOutcome]:
    """One outcome per fact, fact i being fact ``indices[i]`` of the request.

    Success: the edited model writes the new target.
    """
    values = result.values
    return [
        FactOutcome(
            index=indices[i],
            subject=fact.subject,
            prompt=fact.prompt,
            target_new=fact.target_new,
            target_true=fact.target_true,
            before=before[i],
            after=after[i],
            success=after[i].writes_new,
            steps=int(values.steps[i]) if values else None,
            target_probability=float(values.probabilities[i]) if values else None,
        )
        for i, fact in enumerate(facts)
    ]


def _probability(scored: Scored) -> float:
    return exp(scored.mean)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
