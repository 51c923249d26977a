"""Processor time of a service's processes, which says something beside other work, too."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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
def spent(processes: dict[str, list[psutil.Process]], into: dict[str, float]) -> Iterator[None]:
    """Add the seconds that each part spends in the block."""
    before = {name: _seconds(some) for name, some in processes.items()}
    yield
    for name, some in processes.items():
        into[name] = into.get(name, 0.0) + _seconds(some) - before[name]


def told(seconds: Mapping[str, float], tokens: int) -> str:
    """Seconds of each part for 1,000 tokens, the largest first."""
    largest = sorted(seconds.items(), key=lambda one: one[1], reverse=True)
    each = ", ".join(f"{name} {1e3 * spent / tokens:.3f}" for name, spent in largest)
    return f"processor seconds for 1,000 tokens: {each}"


def _seconds(processes: list[psutil.Process]) -> float:
    """User and system time."""
    return sum(times.user + times.system for times in (one.cpu_times() for one in processes))
