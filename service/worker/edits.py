"""One edit job: from the version it starts on to a written version, head not yet moved."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from jeep_core.editing import EditResult as CoreResult
from jeep_core.editing import corpus_path, edit
from jeep_core.editors import hparams_class
from jeep_core.facts import Fact
from jeep_core.generation import Sampling, Scored, generate, score
from jeep_core.loading import LoadedModel, texts_of
from jeep_core.moments import Moments
from jeep_core.prefixes import sample_prefixes
from jeep_core.views import ModelView
from service.jobs import Job, Progress, now
from service.schemas import Answer, EditPayload, EditResult, FactOutcome, LayerReport, Manifest
from service.settings import Settings
from service.store import HeadMoved, Store
from service.worker import tensors
from service.worker.versions import VersionViews, fact_of, live_keys

ANSWER_TOKENS = 10
GENERATE_TOGETHER = 64
REPORT_EVERY_S = 0.2


@dataclass
class JobControl:
    """How a running job talks to the outside.  ``checkpoint`` raises to end it early."""

    publish: Callable[[Progress], None]
    checkpoint: Callable[[], None]

    def __post_init__(self) -> None:
        self._phase, self._began, self._last = "", 0.0, 0.0

    def progress(self, phase: str, done: int, total: int) -> None:
        """Publish progress, a few times a second at most, with the phase's remaining time."""
        moment = time.monotonic()
        if phase != self._phase:
            self._phase, self._began, self._last = phase, moment, 0.0
        if moment - self._last < REPORT_EVERY_S and done < total:
            return
        self._last = moment
        eta = (moment - self._began) / done * (total - done) if done else None
        rounded = None if eta is None else round(eta, 1)
        self.publish(Progress(phase=phase, done=done, total=total, eta_seconds=rounded))

    def should_stop(self) -> bool:
        """For the library: never True, ``checkpoint`` raises instead."""
        self.checkpoint()
        return False


class EditRunner:
    """Computes edits on views of their own.  Prefixes and moments are kept in the store."""

    def __init__(
        self, base: LoadedModel, store: Store, views: VersionViews, settings: Settings
    ) -> None:
        self.base, self._store, self._views = base, store, views
        self._settings = settings
        megabytes = settings.edit_memory_mb
        self._memory_bytes = None if megabytes is None else megabytes * 2**20
        self._moments: Moments | None = None

    def run(self, job: Job, parent: str, control: JobControl) -> tuple[Manifest, ModelView]:
        """Edit on top of ``parent`` and write the new version; head does not move.

        Raises:
            JeepError: the request cannot be carried out, or the numbers went wrong.
            HeadMoved: a rollback came in between.
            Whatever ``control.checkpoint`` raises.
        """
        payload = EditPayload.model_validate(job.payload)
        facts = [fact_of(record) for record in payload.facts]
        hparams = hparams_class(payload.editor).model_validate(payload.hparams)
        began = time.monotonic()
        view = self._views.editing(parent)
        control.progress("measure before", 0, 1)
        before = answers(view, facts)
        result = edit(
            view,
            facts,
            payload.editor,
            preset=payload.preset,
            hparams=payload.hparams,
            prefixes=self._prefixes(hparams.prefix_count),
            moments=self._shared_moments() if hparams.moment_layers else None,
            previous_keys=live_keys(self._store, parent, facts),
            hypernetworks=self._store.base_file("hypernetworks"),
            memory_bytes=self._memory_bytes,
            progress=control.progress,
            should_stop=control.should_stop,
        )
        control.checkpoint()
        edited = self._views.editing(parent)
        edited.apply(result.delta)
        control.progress("measure after", 0, 1)
        outcomes = fact_outcomes(facts, before, answers(edited, facts), result)
        control.checkpoint()
        control.progress("commit", 0, 1)
        head = self._store.head().version
        if head != parent:  # move_head checks again; here no version is left behind
            raise HeadMoved(parent, head)
        seconds = {**result.seconds, "total": round(time.monotonic() - began, 4)}
        version = self._store.new_version_id()
        summary = EditResult(
            edit_id=payload.edit_id,
            version=version,
            parent=parent,
            snapshot_name=payload.snapshot_name,
            facts=outcomes,
            efficacy=fmean(more_probable(outcome) for outcome in outcomes),
            greedy_success=fmean(outcome.success for outcome in outcomes),
            layers=[LayerReport(**vars(layer)) for layer in result.layers],
            seconds=seconds,
            peak_memory_mb=round(result.values.peak_bytes / 2**20, 1) if result.values else None,
        )
        manifest = self._manifest(job, payload, summary, edited, result)
        self._store.write_version(manifest)
        return manifest, edited

    def _manifest(
        self,
        job: Job,
        payload: EditPayload,
        summary: EditResult,
        view: ModelView,
        result: CoreResult,
    ) -> Manifest:
        store = self._store
        artifacts: dict[str, torch.Tensor] = dict(result.delta.tensors())
        for (region, layer), keys in result.keys.items():
            artifacts[f"keys.{region}.{layer}"] = keys
        inputs = {"prefixes": _sha256(result.prefixes)}
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
        )

    def _prefixes(self, count: int) -> list[str]:
        """The first ``count`` prefixes of this base model, sampled once and kept."""
        path = self._store.base_file("prefixes.json")
        known: list[str] = json.loads(path.read_text()) if path.exists() else []
        if len(known) < count:
            known = sample_prefixes(self.base, count)
            _replace(path, json.dumps(known, ensure_ascii=False))
        return known[:count]

    def _shared_moments(self) -> Moments:
        if self._moments is None:
            self._moments = Moments(
                self.base,
                texts_of(corpus_path(self.base.name, self._settings.corpus)),
                self._settings.moment_samples or 0,
                folder=self._store.base_file("moments"),
            )
        return self._moments


def answers(view: ModelView, facts: Sequence[Fact]) -> list[Answer]:
    """What a version says to each fact's prompt."""
    pairs = [(fact.text, fact.target_new) for fact in facts]
    pairs += [(fact.text, fact.target_true) for fact in facts if fact.target_true]
    scored = score(view, pairs)
    true: Any = iter(scored[len(facts) :])
    texts: list[str] = []
    for start in range(0, len(facts), GENERATE_TOGETHER):
        prompts = [fact.text for fact in facts[start : start + GENERATE_TOGETHER]]
        generated = generate(view, prompts, Sampling(max_new_tokens=ANSWER_TOKENS))
        texts += [one.text for one in generated]
    return [
        Answer(
            p_new=_probability(new),
            p_true=_probability(next(true)) if fact.target_true else None,
            text=text,
        )
        for fact, new, text in zip(facts, scored, texts, strict=False)
    ]


def fact_outcomes(
    facts: Sequence[Fact],
    before: Sequence[Answer],
    after: Sequence[Answer],
    result: CoreResult,
) -> list[FactOutcome]:
    """One outcome per fact; success: the generated text begins with the new target."""
    values = result.values
    return [
        FactOutcome(
            index=i,
            subject=fact.subject,
            prompt=fact.prompt,
            target_new=fact.target_new,
            target_true=fact.target_true,
            before=before[i],
            after=after[i],
            success=after[i].text.strip().startswith(fact.target_new.strip()),
            steps=int(values.steps[i]) if values else None,
            target_probability=float(values.probabilities[i]) if values else None,
        )
        for i, fact in enumerate(facts)
    ]


def more_probable(outcome: FactOutcome) -> bool:
    """Whether the new answer is now more probable than the old one, or, without one, written."""
    if outcome.after.p_true is None:
        return outcome.success
    return outcome.after.p_new > outcome.after.p_true


def _probability(scored: Scored) -> float:
    return exp(scored.mean)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
