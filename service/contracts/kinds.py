"""The registry of job kinds: one entry for each, from which everything else is read.

Both processes import it, so it names models and runners as ``module:name`` and imports none.
docs/extending.md lists the files of a new kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any

from pydantic import BaseModel

SCHEMAS = "service.contracts.schemas"
RUNNERS = "service.worker.kinds"
JOBS = "/jobs"


class Lane(StrEnum):
    """A queue of jobs: they run one at a time in each lane, and the lanes run in parallel."""

    WRITE = "write"
    READ = "read"


Payload = Mapping[str, Any]


def never(payload: Payload) -> bool:
    """Jobs that the writer does: they keep something beside their reports."""
    return False


def always(payload: Payload) -> bool:
    """Jobs that any worker may do."""
    return True


def of_versions(payload: Payload) -> bool:
    """Evaluations of versions; a trial of an editor keeps second moments."""
    return payload.get("editor") is None


def of_an_edited_version(payload: Payload) -> bool:
    """Probes of versions; one of the base model is kept for ``auto``."""
    return payload.get("version") != "v0"


@dataclass(frozen=True)
class KindSpec:
    """The properties of a kind of job.

    ``lane``: jobs that write versions run in the write lane, all others in the read lane.
    ``payload`` and ``result`` are the models of `Job.payload` and `Job.result`.  ``runner`` is
    ``run(task)`` for the read lane and ``prepare(task)`` for the write lane, imported when the
    first job runs.  ``path`` is where a result is shown; a kind with a path of its own has ids
    of its own there: ``prefix`` and the job's ULID.  ``scope`` is what a key needs to queue one.
    ``reports`` are patterns of the file names that its result may name.  ``shared`` says of a
    payload whether followers may do the job: it must write nothing but its own reports.
    """

    name: str
    lane: Lane
    payload: str
    result: str
    runner: str
    path: str = JOBS
    prefix: str = "job_"
    scope: str = "edit"
    reports: tuple[str, ...] = ()
    shared: Callable[[Payload], bool] = never

    def resource_id(self, job_id: str) -> str:
        """The id under which ``path`` shows a job; they share the ULID, so either finds the other.

        The job's own id where the kind has no path of its own.
        """
        return self.prefix + job_id.removeprefix("job_")


class JobKind(StrEnum):
    """The kind of work of a job."""

    _spec: KindSpec

    def __new__(cls, spec: KindSpec) -> JobKind:
        """A member whose value is the kind's name."""
        member = str.__new__(cls, spec.name)
        member._value_ = spec.name
        member._spec = spec
        return member

    EDIT = KindSpec(
        "edit",
        Lane.WRITE,
        f"{SCHEMAS}.edits:EditPayload",
        f"{SCHEMAS}.edits:EditResult",
        f"{RUNNERS}.edits:prepare",
        path="/edits",
        prefix="edit_",
    )
    EVALUATION = KindSpec(
        "evaluation",
        Lane.READ,
        f"{SCHEMAS}.evaluation:EvaluationPayload",
        f"{SCHEMAS}.evaluation:EvaluationResult",
        f"{RUNNERS}.evaluations:run",
        path="/evaluations",
        prefix="eval_",
        reports=("cases-*.jsonl", "comparisons.jsonl"),
        shared=of_versions,
    )
    REVERT = KindSpec(
        "revert",
        Lane.WRITE,
        f"{SCHEMAS}.edits:RevertPayload",
        f"{SCHEMAS}.edits:RevertResult",
        f"{RUNNERS}.reverts:prepare",
    )
    HYPERNETWORK = KindSpec(
        "hypernetwork",
        Lane.READ,
        f"{SCHEMAS}.hypernetworks:HypernetworkPayload",
        f"{SCHEMAS}.hypernetworks:Network",
        f"{RUNNERS}.hypernetworks:run",
    )
    DRIFT = KindSpec(
        "drift",
        Lane.READ,
        f"{SCHEMAS}.effects.drift:DriftPayload",
        f"{SCHEMAS}.effects.drift:DriftResult",
        f"{RUNNERS}.drifts:run",
        path="/drifts",
        prefix="drift_",
        shared=always,
    )
    CHECK = KindSpec(
        "check",
        Lane.READ,
        f"{SCHEMAS}.effects.checks:CheckPayload",
        f"{SCHEMAS}.effects.checks:CheckResult",
        f"{RUNNERS}.checks:run",
        path="/checks",
        prefix="check_",
        reports=("answers.jsonl", "missing.jsonl"),
        shared=always,
    )
    EXPORT = KindSpec(
        "export",
        Lane.READ,
        f"{SCHEMAS}.exports:ExportPayload",
        f"{SCHEMAS}.exports:ExportResult",
        f"{RUNNERS}.exports:run",
        path="/exports",
        prefix="export_",
        reports=("proof.json",),
    )
    PROBE = KindSpec(
        "probe",
        Lane.READ,
        f"{SCHEMAS}.probe:ProbePayload",
        f"{SCHEMAS}.probe:ProbeResult",
        f"{RUNNERS}.probes:run",
        path="/probes",
        prefix="probe_",
        reports=("probe.json", "*.png", "*.svg"),
        shared=of_an_edited_version,
    )

    @property
    def spec(self) -> KindSpec:
        """The kind's entry in the registry."""
        return self._spec

    @property
    def lane(self) -> Lane:
        """The lane that its jobs run in."""
        return self._spec.lane


def load(reference: str) -> Any:
    """The object that ``module:name`` refers to."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def payload_model(kind: JobKind) -> type[BaseModel]:
    """The model of the payloads of a kind."""
    model: type[BaseModel] = load(kind.spec.payload)
    return model


def result_model(kind: JobKind) -> type[BaseModel]:
    """The model of the results of a kind."""
    model: type[BaseModel] = load(kind.spec.result)
    return model
