"""The worker's metrics, published with its heartbeat and shown by the api's ``/metrics``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import psutil
import torch
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.contracts.exports import FORMATS
from service.contracts.jobs import TERMINAL, Job, JobKind, JobStatus
from service.contracts.schemas.targets import TargetKind
from service.ops import tracing

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
JOBS = Counter("jeep_jobs", "Jobs that have ended.", ("kind", "outcome"), registry=REGISTRY)
PHASE_SECONDS = Histogram(
    "jeep_job_phase_seconds",
    "How long a phase took in a job, all its turns together.",
    ("kind", "phase"),
    registry=REGISTRY,
    buckets=(0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 7200),
)
FACTS_APPLIED = Counter(
    "jeep_facts_applied", "Facts of edits that have moved head.", registry=REGISTRY
)
EXPORTED_FACTS = Counter(
    "jeep_exported_facts",
    "Facts that a version says, asked again of what was exported: held or lost.",
    ("format", "outcome"),
    registry=REGISTRY,
)
ROLLBACKS = Counter("jeep_rollbacks", "Rollbacks that have moved head.", registry=REGISTRY)
PUSHES = Counter(
    "jeep_target_pushes",
    "Versions brought to targets, and failures; a failure that repeats is counted once.",
    ("kind", "outcome"),
    registry=REGISTRY,
)
TOKENS = Counter("jeep_generated_tokens", "Tokens that were generated.", registry=REGISTRY)
FETCHES = Counter(
    "jeep_fetches",
    "Files and manifests that a follower without the store's disk has asked the api for.",
    ("outcome",),
    registry=REGISTRY,
)
FETCHED_BYTES = Counter(
    "jeep_fetched_bytes", "Bytes of tensors that it has fetched.", registry=REGISTRY
)
BATCH_ROWS = Histogram(
    "jeep_decode_batch_rows",
    "Rows that one decoding step has served.",
    registry=REGISTRY,
    buckets=(1, 2, 4, 8, 16, 32, 64),
)
PHASES_KEPT = 48
"""Phases with a series of their own; further ones, of editors from elsewhere, are ``other``."""

for _fetch in ("fetched", "failed", "damaged"):
    FETCHES.labels(_fetch)
for _kind in JobKind:
    for _outcome in TERMINAL:
        JOBS.labels(_kind.value, _outcome.value)
for _target in TargetKind:
    for _end in ("succeeded", "failed"):
        PUSHES.labels(_target.value, _end)


for _format in FORMATS:
    for _found in ("held", "lost"):
        EXPORTED_FACTS.labels(_format, _found)


class GpuMemory(Collector):
    """Memory of the worker's GPUs, in parts that add up to the total of each."""

    devices: Sequence[torch.device] = ()

    def collect(self) -> Iterable[Metric]:
        """The family; without samples where there is no GPU."""
        family = GaugeMetricFamily(
            "jeep_gpu_memory_bytes",
            "allocated: tensors; cached: kept by the worker for tensors to come; other: the"
            " driver's and other programs'; free.",
            labels=("device", "kind"),
        )
        for device in self.devices:
            if device.type == "cuda":
                for kind, size in _parts(device).items():
                    family.add_metric((str(device), kind), size)
        yield family


def _parts(device: torch.device) -> dict[str, int]:
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    cached = torch.cuda.memory_reserved(device) - allocated
    other = max(0, total - free - allocated - cached)
    return {"allocated": allocated, "cached": cached, "other": other, "free": free}


GPU = GpuMemory()
"""Silent until it has ``devices``."""
REGISTRY.register(GPU)


class HostMemory(Collector):
    """Memory of the worker's host, in parts that add up to the total."""

    def collect(self) -> Iterable[Metric]:
        """The family; reads ``/proc/meminfo``."""
        family = GaugeMetricFamily(
            "jeep_host_memory_bytes",
            "available: for new work without swapping; used: the rest of the host's memory.",
            labels=("kind",),
        )
        memory = psutil.virtual_memory()
        family.add_metric(("used",), memory.total - memory.available)
        family.add_metric(("available",), memory.available)
        yield family


REGISTRY.register(HostMemory())


class PhaseClock:
    """The time that each phase of one job takes; a phase may come again."""

    _known: set[tuple[str, str]] = set()  # noqa: RUF012

    def __init__(self, kind: JobKind | None = None) -> None:
        self._kind = kind.value if kind else ""
        self._seconds: dict[str, float] = {}
        self._phase, self._since = "", 0.0

    def enter(self, phase: str) -> None:
        """Begin or continue a phase.  Text in brackets (which batch) is left out."""
        name = phase.partition(" (")[0]
        if name != self._phase:
            self._leave()
            self._phase, self._since = name, time.monotonic()
            if name:
                tracing.event(name)

    def end(self) -> None:
        """Record the times of the phases when the job has ended."""
        self._leave()
        for phase, seconds in self._seconds.items():
            PHASE_SECONDS.labels(self._kind, self._label(phase)).observe(seconds)

    def _leave(self) -> None:
        if self._phase:
            spent = self._seconds.get(self._phase, 0.0) + time.monotonic() - self._since
            self._seconds[self._phase] = spent

    def _label(self, phase: str) -> str:
        if (self._kind, phase) in self._known or len(self._known) < PHASES_KEPT:
            self._known.add((self._kind, phase))
            return phase
        return "other"


def count_end(job: Job) -> None:
    """Count a job that has ended, and the facts that are true since then."""
    JOBS.labels(job.kind.value, job.status.value).inc()
    result = job.result or {}
    if job.status is JobStatus.SUCCEEDED and result.get("activated"):
        FACTS_APPLIED.inc(len(result.get("facts", ())))
