"""Metrics of api and worker on one page.

Each process has its own counters, and the label ``process`` of every series names it.  The worker
publishes its page with its heartbeat, so the page disappears with the worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Metric, disable_created_metrics, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

disable_created_metrics()  # type: ignore[no-untyped-call]


def page_of(registry: CollectorRegistry) -> str:
    """The page of metrics that one process publishes."""
    return generate_latest(registry).decode()


def families_of(page: str) -> Iterable[Metric]:
    """Parse the page of metrics of another process."""
    return text_string_to_metric_families(page)


def merged(parts: Mapping[str, Iterable[Metric]], accept: str) -> tuple[bytes, str]:
    """One page of the metrics by process, and its content type, as ``accept`` asks for it."""
    registry = CollectorRegistry()
    registry.register(_Merged(parts))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Merged(Collector):
    """One family of each name, with the samples of all processes."""

    def __init__(self, parts: Mapping[str, Iterable[Metric]]) -> None:
        self._families: dict[str, Metric] = {}
        for process, metrics in parts.items():
            for metric in metrics:
                family = self._families.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type)
                )
                family.samples += [
                    sample._replace(labels={"process": process, **sample.labels})
                    for sample in metric.samples
                ]

    def collect(self) -> Iterable[Metric]:
        return self._families.values()
