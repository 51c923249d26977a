"""Run a module that is killed when its parent dies: ``-m service.ops.parent_death PID MODULE``.

Arming this inside the child needs no code between fork and exec.  A worker may be killed at any
instant, an orphaned one would keep the store locked.  Only Linux can do it; elsewhere the
module just runs.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def death_signal(number: int) -> Callable[[], None]:
    """Return a function by which a child asks for signal ``number`` when its parent dies.

    On other systems than Linux the function does nothing.
    The kernel watches the *thread* that started the child, so that thread must live on.
    Everything is loaded here, because the function itself may run between fork and exec.
    """
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def die_with(parent: int) -> None:
    """Have this process killed when ``parent`` (a process id) dies; exit if it already has."""
    death_signal(signal.SIGKILL)()
    if os.getppid() != parent:
        sys.exit(f"the parent process {parent} is gone")


def main() -> None:
    """Entry point."""
    parent, module = int(sys.argv[1]), sys.argv[2]
    die_with(parent)
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
