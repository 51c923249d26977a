"""The executor of a command: processes of its own, or this one."""

from __future__ import annotations

from jeep_core.executors.here import HERE
from jeep_core.executors.processes import Processes
from jeep_core.executors.work import Executor


def worker_processes(count: int, threads: int = 1) -> Executor:
    """So many processes with the priority of this one; 1: this process.

    ``threads`` of each one's matrix products.  To be closed.
    """
    return Processes(count, threads, niceness=0) if count > 1 else HERE
