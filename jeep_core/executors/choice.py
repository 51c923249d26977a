"""Which executor does the work, as settings or the options of a command say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jeep_core.executors.here import HERE
from jeep_core.executors.processes import Processes
from jeep_core.models.placement.device_map import BALANCED

if TYPE_CHECKING:
    from jeep_core.executors.here import Here
    from jeep_core.executors.ray.cluster import RayCluster

Name = Literal["here", "processes", "ray"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An executor by its name, and what is known of its workers.

    ``workers``: how many; the other fields are of each: ``threads`` of its matrix products (None:
    one, unless whoever uses the choice knows better), ``memory_bytes`` that it may have in all.
    Of a Ray cluster alone: its ``address``, what it sets aside for each actor, and how long work
    waits without it, and what becomes of the work then (`RayCluster`).
    """

    executor: Name = "here"
    workers: int = 2
    threads: int | None = None
    memory_bytes: int | None = None
    address: str = "local"
    cpus: float = 1.0
    gpus: float = 0.0
    wait_s: float = 300.0
    without: Literal["fail", "here"] = "fail"

    @property
    def count(self) -> int:
        """How many units are done at a time."""
        return 1 if self.executor == "here" else self.workers

    def lacks_gpus(self, device: str) -> bool:
        """Whether actors would get no GPU though the model is on one: they use its kind of device.

        Such an actor sees none, or takes memory that Ray gives to others.
        """
        on_gpus = "cuda" in device or device == BALANCED
        return self.executor == "ray" and on_gpus and not self.gpus

    def make(self, niceness: int = 10) -> Here | Processes | RayCluster:
        """The executor, to be closed; ``niceness`` is of processes, Ray's actors have its own.

        Raises:
            NoCluster: Ray is not installed.
        """
        threads = self.threads or 1
        if self.executor == "here":
            return HERE
        if self.executor == "processes":
            return Processes(self.workers, threads, self.memory_bytes, niceness)
        from jeep_core.executors.ray.cluster import RayCluster

        return RayCluster(
            self.workers,
            self.address,
            cpus=self.cpus,
            gpus=self.gpus,
            threads=threads,
            memory_bytes=self.memory_bytes,
            wait_s=self.wait_s,
            without=self.without,
        )


ALONE = Choice()
"""This process does all."""
