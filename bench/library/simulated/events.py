"""The simulation: units, workers, and the one who hands them out, event by event.

As ``jeep_core/executors/crew.py`` does it: one thread hands out units in their order, one at a time
to each worker, and reads what comes back; a worker that has given a result has nothing to do until
it has been read.  Each worker is sent the version before its first unit.  No more workers are used
than there are units.  What is serial (reading keys, solving, writing) begins when all units are
there.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import count
from math import inf


@dataclass(frozen=True)
class Unit:
    """A unit: ``seconds`` of a worker, the bytes that it is sent as, and those of its result."""

    seconds: float
    sent: float = 0.0
    received: float = 0.0


@dataclass(frozen=True)
class Job:
    """Units in their order; then ``serial_s`` seconds of the one who hands them out.

    ``version``: bytes that each worker is sent once.  ``streamed``: no more units are begun after
    the first that is not done than there are workers.
    """

    units: Sequence[Unit]
    serial_s: float = 0.0
    version: float = 0.0
    streamed: bool = False


@dataclass(frozen=True)
class Network:
    """The connection of the one who hands out: ``bandwidth`` in bytes a second each way, seconds
    that a message is on its way, and seconds in which a result is read and the next unit written.
    """

    bandwidth: float = inf
    latency_s: float = 0.0
    handling_s: float = 0.0


@dataclass(frozen=True)
class Parts:
    """Where the seconds of a job go.

    ``work``: that of all units, evenly divided; ``waiting``: workers have no unit, at the end or
    as the first one is not done; then what the network adds, handling, and what is serial.
    """

    work: float
    waiting: float
    network: float
    handling: float
    serial: float

    @property
    def total(self) -> float:
        """Seconds of the job."""
        return self.work + self.waiting + self.network + self.handling + self.serial

    @property
    def limit(self) -> str:
        """The largest part beside the work; "work" while that is more than half of the job."""
        if self.work > self.total / 2:
            return "work"
        others = {name: part for name, part in vars(self).items() if name != "work"}
        return max(others, key=lambda name: others[name])


class _Line:
    """Serves one after the other, in the order in which they come."""

    def __init__(self) -> None:
        self._free = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """When someone who comes now has been served."""
        self._free = max(self._free, now) + seconds
        return self._free


def seconds(job: Job, workers: int, network: Network | None = None) -> float:
    """How long a job takes with so many workers; without a network nothing takes time but units.

    Raises:
        ValueError: there is no worker.
    """
    if workers < 1:
        raise ValueError("there must be at least one worker")
    units, through = job.units, network or Network()
    idle = deque(range(min(workers, len(units))))
    fresh = set(idle)
    ahead = len(idle) if job.streamed else len(units)
    out, back, reader = _Line(), _Line(), _Line()
    # time, order, whether a result was read (else: it was made), worker, unit
    events: list[tuple[float, int, bool, int, int]] = []
    order, done = count(), set[int]()
    now, begun, first = 0.0, 0, 0
    while True:
        while idle and begun < len(units) and begun <= first + ahead:
            worker, unit = idle.popleft(), units[begun]
            sent = unit.sent + (job.version if worker in fresh else 0.0)
            fresh.discard(worker)
            arrived = out.serve(now, sent / through.bandwidth) + through.latency_s
            heapq.heappush(events, (arrived + unit.seconds, next(order), False, worker, begun))
            begun += 1
        if not events:
            return now + job.serial_s
        now, _, was_read, worker, number = heapq.heappop(events)
        if not was_read:
            travels = units[number].received / through.bandwidth
            arrived = back.serve(now, travels) + through.latency_s
            read = reader.serve(arrived, through.handling_s)
            heapq.heappush(events, (read, next(order), True, worker, number))
            continue
        done.add(number)
        idle.append(worker)
        while first in done:
            first += 1


def parts(jobs: Sequence[Job], workers: int, network: Network) -> Parts:
    """Where the seconds of jobs, one after the other, go.

    Each without network, handling and serial part, then with one more of them at a time.
    """
    found = [_parts(job, workers, network) for job in jobs]
    return Parts(**{f.name: sum(getattr(one, f.name) for one in found) for f in fields(Parts)})


def _parts(job: Job, workers: int, network: Network) -> Parts:
    alone = replace(job, serial_s=0.0)
    work = sum(unit.seconds for unit in job.units) / workers
    bare = seconds(replace(alone, version=0.0), workers)
    sent = seconds(alone, workers, replace(network, handling_s=0.0))
    handled = seconds(alone, workers, network)
    return Parts(work, bare - work, sent - bare, handled - sent, job.serial_s)
