"""The api's own counters."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from service.contracts.jobs import JobKind, JobStatus

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
GENERATION_SECONDS = Histogram(
    "jeep_generation_seconds",
    "From a generation's way to the worker to its last token, of those that were answered.",
    registry=REGISTRY,
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
CANCELLED_JOBS = Counter(
    "jeep_jobs", "Jobs that have ended.", ("kind", "outcome"), registry=REGISTRY
)
"""Here those that never began; the worker counts the others."""
for _kind in JobKind:
    CANCELLED_JOBS.labels(_kind.value, JobStatus.CANCELLED.value)
