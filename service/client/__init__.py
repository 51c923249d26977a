"""A Python client of the service: every call is one HTTP request, every error an `ApiError`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from httpx_sse import ServerSentEvent

from jeep_core.errors import Coded
from service.client.audit import AuditCalls
from service.client.effects import EffectCalls
from service.client.evaluations import EvaluationCalls
from service.client.exports import DamagedDownload, ExportCalls
from service.client.hypernetworks import Hypernetworks
from service.client.openai import OpenAICalls
from service.client.probes import ProbeCalls
from service.client.targets import TargetCalls
from service.client.transport import ApiError, given, segment
from service.client.versions import VersionCalls
from service.contracts.jobs import TERMINAL, JobKind, JobStatus, Progress
from service.contracts.schemas import (
    Edit,
    EditPlan,
    GenerateResult,
    JobOut,
    Problem,
    RollbackResult,
    Snapshot,
    SnapshotDiff,
)

__all__ = ["ApiError", "Client", "DamagedDownload", "JobTimeout"]

FILE = "application/octet-stream"
JSON_PARAMS = ("hparams", "guards", "activate")
"""Fields of an edit that are JSON where they are query parameters."""

FactDict = Mapping[str, Any]
OnProgress = Callable[[JobStatus, Progress], None]


class JobTimeout(Coded, Exception):
    """A job did not end in the time the caller gave it."""

    code = "job_timeout"


class _Seen:
    """The state of a job as seen in its events so far."""

    def __init__(self) -> None:
        self.status = JobStatus.QUEUED
        self.progress = Progress()

    def take(self, event: ServerSentEvent) -> None:
        data = json.loads(event.data)
        if event.event == "error":
            raise ApiError(Problem.model_validate(data))
        if event.event == "progress":
            self.progress = Progress.model_validate(data)
        elif event.event == "status":
            self.status = JobStatus(data["status"])


class Client(
    AuditCalls,
    EffectCalls,
    EvaluationCalls,
    ExportCalls,
    Hypernetworks,
    OpenAICalls,
    ProbeCalls,
    TargetCalls,
    VersionCalls,
):
    """Talks to one service.  Use it as a context manager, or call `close`.

    ``api_key`` is a key as ``jeep keys create`` printed it.  ``timeout`` bounds every read in
    seconds; calls that wait for the model add their own.
    """

    # ------------------------------------------------------------ edits

    def edit(
        self,
        facts: Sequence[FactDict],
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> JobOut:
        """Submit facts; options as in ``POST /edits`` (editor, preset, hparams, …).

        Safe to repeat: a key is generated where none is given, and a lost answer is requested
        again.
        """
        body = {"facts": [dict(fact) for fact in facts], **given(options)}
        return self._queued("/edits", body, idempotency_key)

    def edit_file(
        self,
        path: Path,
        *,
        format: str = "auto",
        limit: int | None = None,
        drop_bad: bool = False,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> JobOut:
        """Submit the records of a file in any format of suites, or the first ``limit`` of them.

        Other options as in ``POST /edits``.  ``imported`` of the job says how many facts that
        makes and what was lost.  Safe to repeat, as ``edit``.
        """
        as_json = {name: json.dumps(options.pop(name)) for name in JSON_PARAMS if name in options}
        asked = {"format": format, "limit": limit, "drop_bad": drop_bad or None}
        params = given({**asked, **as_json, **options})
        headers = {"Idempotency-Key": idempotency_key or str(uuid4()), "Content-Type": FILE}
        content = path.read_bytes()
        return self._model(
            JobOut, "POST", "/edits", content=content, params=params, headers=headers, again=True
        )

    def plan(self, facts: Sequence[FactDict], **options: Any) -> EditPlan:
        """Plan an edit without queuing it: tokens, positions, repeated facts."""
        body = {"facts": [dict(fact) for fact in facts], **given(options)}
        return self._model(EditPlan, "POST", "/edits", json=body, params={"dry_run": "true"})

    def edits(self) -> Iterator[dict[str, Any]]:
        """Submitted batches, newest first, without their facts."""
        return self._pages("/edits")

    def edit_result(self, edit_id: str) -> Edit:
        """A batch with its facts and, once there is one, its result."""
        return self._model(Edit, "GET", f"/edits/{segment(edit_id)}")

    # ------------------------------------------------------------ jobs

    def job(self, job_id: str) -> JobOut:
        """The current state of a job."""
        return self._model(JobOut, "GET", f"/jobs/{segment(job_id)}")

    def jobs(
        self, status: JobStatus | None = None, kind: JobKind | None = None
    ) -> Iterator[JobOut]:
        """Jobs, newest first, without their results."""
        asked = {"status": status, "kind": kind}
        params = {name: str(value) for name, value in asked.items() if value is not None}
        return (JobOut.model_validate(item) for item in self._pages("/jobs", params))

    def cancel(self, job_id: str) -> JobOut:
        """Ask a queued or running job to end."""
        return self._model(JobOut, "POST", f"/jobs/{segment(job_id)}/cancel")

    def wait(
        self, job_id: str, on_progress: OnProgress | None = None, timeout: float | None = None
    ) -> JobOut:
        """Wait until a job has ended; ``on_progress`` is called at every step.

        After a broken connection, the events continue where they broke off.

        Raises:
            JobTimeout: it did not end within ``timeout`` seconds.
            ApiError: there is no such job.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        last_id = ""
        seen = _Seen()
        while True:
            try:
                for event in self._job_events(job_id, last_id, deadline):
                    last_id = event.id or last_id
                    seen.take(event)
                    if on_progress is not None:
                        on_progress(seen.status, seen.progress)
                    if seen.status in TERMINAL:
                        return self.job(job_id)
            except httpx.TransportError:
                if not self._reachable_before(deadline) and deadline is None:
                    raise
            if deadline is not None and time.monotonic() >= deadline:
                raise JobTimeout(f"{job_id} has not ended after {timeout} s")

    def _job_events(
        self, job_id: str, last_id: str, deadline: float | None
    ) -> Iterator[ServerSentEvent]:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        url = f"/jobs/{segment(job_id)}/events"
        left = self._http.timeout.read
        if deadline is not None:
            left = max(0.1, min(left or 60.0, deadline - time.monotonic()))
        timeout = httpx.Timeout(self._http.timeout.connect, read=left)
        with self._stream("GET", url, headers=headers, timeout=timeout) as events:
            for event in events.iter_sse():
                if event.data:  # a keep-alive comment after an event id looks like an event
                    yield event
                if deadline is not None and time.monotonic() >= deadline:
                    return

    # ------------------------------------------------------------ generation

    def generate(
        self,
        prompts: str | Sequence[str] | None = None,
        version: str | Sequence[str] = "head",
        **options: Any,
    ) -> GenerateResult:
        """Answers of one or several versions; options as in ``POST /generate``.

        Among them are ``messages``, in place of prompts: a chat, each with role and content.
        """
        body = _generate_body(prompts, version, options)
        return self._model(GenerateResult, "POST", "/generate", json=body)

    def stream(
        self, prompt: str | None = None, version: str = "head", **options: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """``("token", GeneratedToken)`` as they come, then ``("result", GenerateResult)``.

        ``messages`` may be given in place of the prompt, as in ``generate``.

        Raises:
            ApiError: also when the service breaks off in the middle.
        """
        body = {**_generate_body(prompt, version, options), "stream": True}
        with self._stream("POST", "/generate", json=body) as events:
            for event in events.iter_sse():
                if not event.data:
                    continue
                data = json.loads(event.data)
                if event.event == "error":
                    raise ApiError(Problem.model_validate(data))
                yield event.event, data

    # ------------------------------------------------------------ versions

    def snapshots(self) -> Iterator[Snapshot]:
        """Versions, newest first."""
        return (Snapshot.model_validate(item) for item in self._pages("/snapshots"))

    def snapshot(self, ref: str = "head") -> Snapshot:
        """One version by id or name."""
        return self._model(Snapshot, "GET", f"/snapshots/{segment(ref)}")

    def name_snapshot(self, name: str, version: str = "head") -> Snapshot:
        """Give a version a name."""
        body = {"name": name, "version": version}
        return self._model(Snapshot, "POST", "/snapshots", json=body)

    def diff(self, a: str, b: str) -> SnapshotDiff:
        """The differences between ``a`` and ``b``."""
        return self._model(SnapshotDiff, "GET", f"/snapshots/{segment(a)}/diff/{segment(b)}")

    def export(self, ref: str, path: Path, format: str | None = None) -> int:
        """Write a version to ``path``, as a safetensors file unless a format is named.

        Returns the size in bytes.  The file appears under its name only when it is complete.
        """
        url = f"/snapshots/{segment(ref)}/export"
        return self._download(url, path, given({"format": format}))

    def rollback(self, ref: str, why: str = "", cancel_queued: bool = False) -> RollbackResult:
        """Move head to a version; returns when the model serves it."""
        params = {"queued": "cancel"} if cancel_queued else {}
        url = f"/rollback/{segment(ref)}"
        return self._model(RollbackResult, "POST", url, json={"why": why}, params=params)

    # ------------------------------------------------------------ health

    def ready(self) -> bool:
        """Whether api, queue and worker are all up."""
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self, timeout: float = 120.0) -> None:
        """Wait until the service is ready; raise TimeoutError if that takes too long."""
        deadline = time.monotonic() + timeout
        while not self.ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the service was not ready after {timeout:.0f} s")
            time.sleep(0.2)


def _generate_body(
    prompts: str | Sequence[str] | None,
    version: str | Sequence[str],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if prompts is not None:
        asked = {"prompt": prompts} if isinstance(prompts, str) else {"prompts": list(prompts)}
    versions = version if isinstance(version, str) else list(version)
    return {**asked, "version": versions, **given(options)}
