"""One edit job: from the version it starts on to a written version, head not yet moved."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from statistics import fmean
from typing import Any

import torch

from jeep_core.editing import EditResult as CoreResult
from jeep_core.editing import corpus_path, edit
from jeep_core.editors import hparams_class
from jeep_core.facts import Fact
from jeep_core.generation import Decoder, Sampling, Scored, score
from jeep_core.loading import LoadedModel, texts_of
from jeep_core.moments import Moments
from jeep_core.pauses import pausing
from jeep_core.prefixes import sample_prefixes
from jeep_core.views import ModelView
from service.jobs import Job, Progress, now
from service.schemas import Answer, EditPayload, EditResult, FactOutcome, LayerReport, Manifest
from service.settings import Settings
from service.store import HeadMoved, Store
from service.store.files import replace
from service.worker import tensors
from service.worker.gate import Gate
from service.worker.threads import edit_threads
from service.worker.versions import VersionViews, fact_of

ANSWER_TOKENS = 10
MEASURE_TOGETHER = 64
REPORT_EVERY_S = 0.2


@dataclass
class JobControl:
    """How a running job talks to the outside.  ``checkpoint`` raises to end it early."""

    publish: Callable[[Progress], None]
    checkpoint: Callable[[], None]

    def __post_init__(self) -> None:
        self._phase, self._began, self._last, self._first = "", 0.0, 0.0, 0

    def progress(self, phase: str, done: int, total: int) -> None:
        """Publish progress, a few times a second at most, with the phase's remaining time.

        What a phase had done when it first reported is not counted in its speed.
        """
        moment = time.monotonic()
        if phase != self._phase:
            self._phase, self._began, self._last, self._first = phase, moment, 0.0, done
        if moment - self._last < REPORT_EVERY_S and done < total:
            return
        self._last = moment
        new = done - self._first
        eta = (moment - self._began) / new * (total - done) if new else None
        rounded = None if eta is None else round(eta, 1)
        self.publish(Progress(phase=phase, done=done, total=total, eta_seconds=rounded))

    def should_stop(self) -> bool:
        """For the library: never True, ``checkpoint`` raises instead."""
        self.checkpoint()
        return False


class EditRunner:
    """Computes edits on views of their own.  Prefixes and moments are kept in the store."""

    def __init__(
        self,
        base: LoadedModel,
        store: Store,
        views: VersionViews,
        settings: Settings,
        gate: Gate,
    ) -> None:
        self.base, self._store, self._views = base, store, views
        self._settings, self._gate = settings, gate
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
        with edit_threads(self.base, len(facts)):
            return self._run(job, parent, control, payload, facts)

    def _run(
        self,
        job: Job,
        parent: str,
        control: JobControl,
        payload: EditPayload,
        facts: list[Fact],
    ) -> tuple[Manifest, ModelView]:
        hparams = hparams_class(payload.editor).model_validate(payload.hparams)
        began = time.monotonic()
        view = self._views.editing(parent)
        control.progress("measure before", 0, 1)
        before = self._answers(view, facts, control)
        result = edit(
            view,
            facts,
            payload.editor,
            hparams=payload.hparams,
            prefixes=kept_prefixes(self._store, self.base, hparams.prefix_count),
            moments=self._shared_moments() if hparams.moment_layers else None,
            previous_keys=self._views.live_keys(parent, facts),
            hypernetworks=self._store.base_file("hypernetworks"),
            memory_bytes=self._memory_bytes,
            progress=control.progress,
            should_stop=control.should_stop,
            pause=self._pause,
        )
        control.checkpoint()
        view.apply(result.delta)
        control.progress("measure after", 0, 1)
        after = self._answers(view, facts, control)
        outcomes = fact_outcomes(facts, before, after, result, payload.sent_as)
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
            duplicates=payload.duplicates,
            peak_memory_mb=round(result.values.peak_bytes / 2**20, 1) if result.values else None,
        )
        manifest = self._manifest(job, payload, summary, view, result)
        self._store.write_version(manifest)
        return manifest, view

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

    def _answers(self, view: ModelView, facts: Sequence[Fact], control: JobControl) -> list[Answer]:
        with pausing(view, self._pause):
            return answers(view, facts, control.checkpoint)

    def _pause(self) -> None:
        """Let decoding go first."""
        if self._gate.contended and self.base.device.type == "cuda":
            torch.cuda.synchronize(self.base.device)  # what is queued would still run
        self._gate.pause()

    def _shared_moments(self) -> Moments:
        if self._moments is None:
            settings, imported = self._settings, self._settings.moments
            corpus = None if imported else corpus_path(self.base.name, settings.corpus)
            self._moments = Moments(
                self.base,
                texts_of(corpus) if corpus else [],
                settings.moment_samples or 0,
                folder=self._store.base_file("moments"),
                imported=imported,
                factor_bytes=settings.factor_memory_mb * 2**20,
            )
        return self._moments


def kept_prefixes(store: Store, base: LoadedModel, count: int) -> list[str]:
    """The first ``count`` prefixes of this base model, sampled once and kept.

    A file that cannot be read is written anew: the same texts are sampled again.
    """
    path = store.base_file("prefixes.json")
    try:
        known: list[str] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        known = []
    if len(known) < count:
        known = sample_prefixes(base, count)
        replace(path, json.dumps(known, ensure_ascii=False).encode())
    return known[:count]


def answers(
    view: ModelView, facts: Sequence[Fact], checkpoint: Callable[[], None] = lambda: None
) -> list[Answer]:
    """What a version says to each fact's prompt; ``checkpoint`` is called now and then."""
    found: list[Answer] = []
    for start in range(0, len(facts), MEASURE_TOGETHER):
        checkpoint()
        found += _answers_together(view, facts[start : start + MEASURE_TOGETHER])
    return found


def _answers_together(view: ModelView, facts: Sequence[Fact]) -> list[Answer]:
    pairs = [(fact.text, fact.target_new) for fact in facts]
    pairs += [(fact.text, fact.target_true) for fact in facts if fact.target_true]
    scored = score(view, pairs)
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
    """Enough for the new target and what follows it, as far as the model's positions reach."""
    room = view.base.max_positions - len(view.base.tokenizer.encode(fact.text).ids)
    return min(max(ANSWER_TOKENS, new.tokens + 1), room)


def goes_on(text: str, target: str) -> bool:
    """Whether a text continues the target's last word or number: "Nigeria" after "Niger".

    Scripts without upper and lower case mark no words here: their tokens decide alone.
    """
    text, target = text.strip(), target.strip()
    last, following = target[-1:], text[len(target) : len(target) + 1]
    if not text.startswith(target) or not following:
        return False
    cased = following.lower() != following.upper()
    return (last.isalpha() and cased) or (last.isdigit() and following.isdigit())


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


def more_probable(outcome: FactOutcome) -> bool:
    """Whether the new answer is now more probable than the old one, or, without one, written."""
    if outcome.after.p_true is None:
        return outcome.success
    return outcome.after.p_new > outcome.after.p_true


def _probability(scored: Scored) -> float:
    return exp(scored.mean)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
