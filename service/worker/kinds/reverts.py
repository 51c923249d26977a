"""Reverts: the versions after a batch are computed again without it.

Each one is kept as a draft of the job when it is ready, so an interrupted job continues where
it was.  Drafts become versions together, in order, right before head moves; those of a job that
ends otherwise are removed without ever being visible.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from service.contracts.jobs import Job, Progress
from service.contracts.schemas import Manifest, Reapplied, RevertPayload, RevertResult
from service.store import HeadMoved, Move, Store, UnknownVersion, VersionExists
from service.store.index.line import Line
from service.worker.failures import Refused
from service.worker.kinds.edits import Edits
from service.worker.lanes.control import JobControl
from service.worker.lanes.lane import Work
from service.worker.lanes.write_task import WriteTask


def prepare(task: WriteTask[Edits]) -> tuple[Job, Work]:
    """Return the job with the version it started from, and its remaining work."""
    if task.move is not None:
        task = task.started_on(task.move.previous)
    return task.job, lambda: _run(task)


def _run(task: WriteTask[Edits]) -> RevertResult:
    """Take a batch out of head's history, unless an interrupted attempt has moved head.

    The version that becomes head is in memory before it does.
    """
    payload = RevertPayload.model_validate(task.job.payload)
    move = task.move
    if move is None:
        task.begin(payload.parent, payload.snapshot_name)
        head = task.parent
        parts = Line(task.store, head).split(payload.edit_id)
        if parts is None:
            detail = f"{payload.edit_id} is not part of {head}, which is head"
            raise Refused("not_applied", detail)
        tip = Reverter(task.store, task.edits).run(task.job, *parts, task.control)
        task.views.get(tip.id)
        move = task.commit(tip.id, head, f"revert {payload.edit_id}")
    return task.named(result_of(task.store, task.job, payload, move), payload.snapshot_name)


class Reverter:
    """Carries out the computing part of revert jobs."""

    def __init__(self, store: Store, edits: Edits) -> None:
        self._store, self._edits = store, edits

    def run(
        self,
        job: Job,
        kept: Line,
        later: Sequence[Manifest],
        control: JobControl,
    ) -> Manifest:
        """Write ``later`` again on top of ``kept`` and return the tip; head does not move.

        Raises:
            HeadMoved: a rollback came in between.
            Whatever computing the batches and ``control.checkpoint`` raise.
        """
        head = str(job.base_version)
        drafts = {(d.parent, d.reapplied_from): d for d in self._store.drafts.of_job(job.id)}
        made: list[Manifest] = []
        for number, source in enumerate(later, start=1):
            line = kept.with_drafts(made)
            draft = drafts.get((line[-1].id, source.id))
            if draft is None:
                part = _within(control, f"batch {number} of {len(later)}")
                part.checkpoint()
                draft = self._edits.reapply(job, source, line, head, part)
                self._store.drafts.save(draft)
            made.append(draft)
        self._write(made, head, control)
        return made[-1] if made else kept[-1]

    def _write(self, drafts: Sequence[Manifest], head: str, control: JobControl) -> None:
        """Turn drafts into versions.  Once this has begun, the job cannot be cancelled."""
        if not drafts or not self._is_written(drafts[0]):
            control.checkpoint()
            found = self._store.head.read().version
            if found != head:  # head.move checks again; failing here leaves no version behind
                raise HeadMoved(head, found)
        for draft in drafts:
            try:
                self._store.versions.write(draft)
            except VersionExists:  # by an attempt before this one
                continue

    def _is_written(self, draft: Manifest) -> bool:
        try:
            self._store.versions.read(draft.id)
        except UnknownVersion:
            return False
        return True


def result_of(store: Store, job: Job, payload: RevertPayload, move: Move) -> RevertResult:
    """The result of a revert that has moved head."""
    own = takewhile(lambda version: version.job_id == job.id, store.versions.back(move.to))
    made = list(own)[::-1]
    return RevertResult(
        edit_id=payload.edit_id,
        version=move.to,
        previous=str(move.previous),
        weights_sha256=store.versions.read(move.to).weights_sha256,
        reapplied=[_reapplied(version) for version in made],
        warnings=[text for v in made if v.result is not None for text in v.result.warnings],
    )


def _reapplied(version: Manifest) -> Reapplied:
    assert version.result is not None
    return Reapplied(
        edit_id=str(version.edit_id),
        previous_version=str(version.reapplied_from),
        version=version.id,
        efficacy=version.result.efficacy,
        greedy_success=version.result.greedy_success,
    )


def _within(control: JobControl, part: str) -> JobControl:
    """A control whose phases say which part of the job they belong to."""

    def publish(progress: Progress) -> None:
        control.publish(progress.model_copy(update={"phase": f"{progress.phase} ({part})"}))

    return JobControl(publish=publish, checkpoint=control.checkpoint)
