"""Worker processes on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jeep_core.executors import child
from jeep_core.executors.child import Terms
from jeep_core.executors.crew import Crew


class Processes(Crew):
    """So many processes beside this one, each with the model, started at first use.

    A worker that dies is replaced and its unit done again.  While the caller gives way, workers
    wait; beside that others go first by ``niceness``.  Workers share the memory of a model whose
    files are of the type it is used in; what they have besides is their own.

    Args:
        workers: how many.
        threads: of each worker's matrix products.
        memory_bytes: what a worker may have in all; beyond it a unit fails as without memory.
        niceness: 0 to 19.
    """

    def __init__(
        self,
        workers: int = 2,
        threads: int = 1,
        memory_bytes: int | None = None,
        niceness: int = 10,
    ) -> None:
        if workers < 1:
            raise ValueError("there must be at least one worker")
        super().__init__()
        self.count = workers
        self._terms = Terms(threads, memory_bytes, niceness)

    @property
    def workers(self) -> int:
        """How many units are done at a time."""
        return self.count

    def _target(self) -> tuple[Callable[..., None], tuple[Any, ...]]:
        return child.main, (self._terms,)
