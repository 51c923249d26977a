"""Processor time of a service's processes, which says something beside other work, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import psutil


def parts(followers: Collection[int]) -> dict[str, list[psutil.Process]]:
    """The processes of a service that this one has started, by what they do.

    ``followers``: the numbers of its followers.  ``clients``: this process itself.
    """
    here = psutil.Process()
    found: dict[str, list[psutil.Process]] = {"clients": [here]}
    for one in here.children(recursive=True):
        command = one.cmdline()
        if one.pid in followers:
            name = "followers"
        elif "serve" in command:
            name = "api"
        else:
            name = "queue" if any("valkey" in word for word in command[:1]) else "writer"
        found.setdefault(name, []).append(one)
    return found


@contextmanager
def spent(processes: dict[str, list[psutil.Process]], into: Counter[str]) -> Iterator[None]:
    """Add the seconds that each part spends in the block."""
    before = {name: _seconds(some) for name, some in processes.items()}
    yield
    for name, some in processes.items():
        into[name] += _seconds(some) - before[name]


def told(seconds: Counter[str], tokens: int) -> str:
    """What was spent for 1,000 tokens, the largest first."""
    each = ", ".join(f"{name} {1e3 * s / tokens:.3f}" for name, s in seconds.most_common())
    return f"processor seconds for 1,000 tokens: {each}"


def _seconds(processes: list[psutil.Process]) -> float:
    """User and system time."""
    return sum(times.user + times.system for times in (one.cpu_times() for one in processes))
