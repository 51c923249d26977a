"""Who does independent parts of the work (docs/cluster.md)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings


class ExecutorFields(BaseSettings):
    """The executor and its workers."""

    executor: Literal["here", "processes", "ray"] = Field(
        default="here",
        description="Who does independent parts of the work: the worker itself, processes beside "
        "it, or a Ray cluster.",
    )
    executor_workers: Annotated[int, Field(ge=1)] = Field(
        default=2, description="How many processes or Ray actors."
    )
    executor_threads: Annotated[int, Field(ge=1)] = Field(
        default=1, description="Threads of each one's matrix products."
    )
    executor_memory_mb: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Memory that each may have; default: no limit."
    )
    executor_address: Annotated[str, Field(pattern=r"^(local|[A-Za-z0-9.\-\[\]:]+:[0-9]+)$")] = (
        Field(
            default="local",
            description="Address of the Ray cluster, such as 10.0.0.5:6379; local: one is started "
            "on this machine.",
        )
    )
    executor_cpus: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="CPUs that Ray sets aside for each actor."
    )
    executor_gpus: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="GPUs that Ray sets aside for each actor."
    )
    executor_wait_s: Annotated[float, Field(ge=0)] = Field(
        default=300.0,
        description="How long work waits while no worker of the Ray cluster is ready.",
    )
    executor_without: Literal["fail", "here"] = Field(
        default="fail", description="What becomes of work whose cluster stays away."
    )

    @property
    def executor_fields(self) -> dict[str, Any]:
        """All of them, by the names that the library's ``Choice`` has for them."""
        megabytes = self.executor_memory_mb
        return {
            "executor": self.executor,
            "workers": self.executor_workers,
            "threads": self.executor_threads,
            "memory_bytes": None if megabytes is None else megabytes * 2**20,
            "address": self.executor_address,
            "cpus": self.executor_cpus,
            "gpus": self.executor_gpus,
            "wait_s": self.executor_wait_s,
            "without": self.executor_without,
        }
