"""The caller's side: processes that are started, given units, watched and replaced.

One loop serves both kinds of crew: worker processes, each of which does one unit at a time, and
one process that speaks to a Ray cluster, which takes all units at once.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, get_context
from typing import Any

from jeep_core.errors import WorkersLost
from jeep_core.executors.child import FLAGS, HELD, PAUSE, STOPPED
from jeep_core.executors.here import HERE
from jeep_core.executors.ledger import Ledger, advice
from jeep_core.executors.link import Inbox, Link, ending
from jeep_core.executors.version import Source, Version, source_of, version_of
from jeep_core.executors.wire import pack, unpack
from jeep_core.executors.work import Bench, Keep, Work, keep_nothing
from jeep_core.models.loading import LoadedModel
from jeep_core.monitor import Monitor, nothing

log = logging.getLogger(__name__)
TURN_S = 0.01
"""How often it is asked whether workers are to wait, if anybody wants to be given way."""
CHECK_S = 0.1
"""How often it is asked whether the work is to end."""
STARTS = 3
"""How many processes in a row may end before they are ready; before they are prepared, so many for
each that there is."""
STALE_S = 10.0
"""How long a process may go on with work that was given up."""
PREPARED_S = 120.0
"""How long it may go on with the version of such work."""
PRELOADED = ["jeep_core.executors.child", "jeep_core.values.optimiser"]
"""Imported once, by the process that the others are forked from."""


class Crew:
    """Processes that do units; a base of executors.  Runs of several threads take turns.

    ``count`` processes at most, each given ``capacity`` units at a time.
    """

    count = 1
    capacity = 1
    grace_s = 1.0
    """How long a process may take to end after its pipe is closed."""

    def __init__(self) -> None:
        context = self._context = get_context("forkserver")
        self._links: list[Link] = []
        self._inbox: Inbox = queue.SimpleQueue()
        # read by every worker without a lock: one that is killed holds none
        self._flags = context.RawArray("q", FLAGS)
        self._turn = threading.Lock()
        self._number = 0
        self._source: Source | None = None
        self._failed_starts = 0

    # ------------------------------------------------------------ what kinds of crew say

    def _target(self) -> tuple[Callable[..., None], tuple[Any, ...]]:
        """The function that a process runs, and its arguments after pipe and flags."""
        raise NotImplementedError

    def _source_of(self, base: LoadedModel) -> Source:
        """The model as its processes load it."""
        return source_of(base)

    def _died(self, run: Run, link: Link) -> None:
        """A process is gone; by default its units wait again and another one is started."""
        in_a_row, most, doing = 0, STARTS, ""
        if not link.ready:
            self._failed_starts += 1
            in_a_row, doing = self._failed_starts, "loaded the model"
        elif link.run == run.number and not link.begun:
            run.unprepared += 1
            # all make it at the same time, and may lack memory together that each alone would have
            in_a_row, most = run.unprepared, STARTS * self.count
            doing = "made the version that is worked on"
        if in_a_row >= most:
            why = ending(link.process)
            raise WorkersLost(
                f"{in_a_row} worker processes in a row ended while they {doing} ({why}): "
                f"{advice(why)}"
            )
        for number in sorted(link.busy):
            run.ledger.lost(number, ending(link.process))

    def _may_start(self) -> bool:
        """Whether a process may be started now."""
        return True

    def _look(self, run: Run) -> None:
        """Called again and again while a run goes on; may end it with an exception."""

    def _refused(self, run: Run, link: Link, error: BaseException) -> None:
        """A process cannot work at all, and is ended; by default the error is the run's."""
        raise error

    # ------------------------------------------------------------ the protocol

    def run(self, work: Work, bench: Bench, keep: Keep = keep_nothing) -> list[Any]:
        """The results of all units in their order.  A single unit is done in this process.

        None for each if they are ``streamed``.

        Raises:
            WorkersLost: the same unit's worker died several times, or no worker can be started.
            What the first unit, in their order, has raised that failed.
            Whatever ``monitor.check`` raises.
        """
        if len(work.units) <= 1:
            return HERE.run(work, bench, keep)
        with self._turns(bench.monitor):
            base = bench.view.base
            self._use(self._source_of(base))
            self._preload(base)
            self._number += 1
            run = Run(self, work, bench, keep, self._number)
            try:
                self._work(run)
            finally:
                # after an error units that are not wanted any more may still be worked on
                self._flags[STOPPED] = run.number
                since, self._flags[PAUSE] = self._flags[PAUSE], 0
                self._flags[HELD] += time.monotonic_ns() - since if since else 0
        return run.finish()

    def warm(self, base: LoadedModel) -> None:
        """Start the process that the others are forked from, which imports their libraries.

        It takes some seconds, for which this does not wait.
        """
        self._preload(base)
        forkserver.ensure_running()

    def close(self) -> None:
        """End all processes."""
        with self._turn:
            self._end_all()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        for link in getattr(self, "_links", ()):
            link.leave()

    def pids(self) -> list[int]:
        """The ids of the processes that were started and not seen to end."""
        started = [link for link in self._links if link.process.pid is not None]
        return [pid for link in started for pid in (int(link.process.pid), *link.others)]

    def _end_all(self) -> None:
        for link in self._links:
            link.leave()
        for link in self._links:
            if link.thread is not None:
                # one that is still being started ends by itself
                link.thread.join(2 * self.grace_s)
        self._links, self._inbox = [], queue.SimpleQueue()

    def _preload(self, base: LoadedModel) -> None:
        self._context.set_forkserver_preload([*PRELOADED, type(base.model).__module__])

    # ------------------------------------------------------------ one run

    @contextmanager
    def _turns(self, monitor: Monitor) -> Iterator[None]:
        while not self._turn.acquire(timeout=CHECK_S):
            monitor.check()
        try:
            yield
        finally:
            self._turn.release()

    def _use(self, source: Source) -> None:
        """Workers have one model; for another one they are started again."""
        if source != self._source:
            self._end_all()
            self._source, self._failed_starts = source, 0

    def _work(self, run: Run) -> None:
        monitor, ledger = run.bench.monitor, run.ledger
        monitor.report(run.work.phase, 0, run.work.total)
        polite = monitor.give_way is not nothing
        checked = told = -1.0
        while not ledger.finished:
            self._look(run)
            self._tend(run)
            self._listen(run, TURN_S if polite else CHECK_S)
            now = time.monotonic()
            if polite or now - checked >= CHECK_S:
                # nobody works while the caller does not go on
                self._flags[PAUSE] = time.monotonic_ns()
                if now - checked >= CHECK_S:
                    checked = now
                    monitor.check()
                monitor.give_way()
                self._flags[PAUSE] = 0
                self._held_up(run, time.monotonic() - now)
                self._listen(run, 0.0)
            if ledger.progressed != told:
                told = ledger.progressed
                monitor.report(run.work.phase, told, run.work.total)

    def _held_up(self, run: Run, seconds: float) -> None:
        """Waits do not count while this thread was held up, when nobody was listened to."""
        self._flags[HELD] += int(seconds * 1e9)
        if run.since is not None:
            run.since += seconds
        for link in self._links:
            if link.stale_since is not None:
                link.stale_since += seconds

    def _tend(self, run: Run) -> None:
        """Start processes that are wanted, and give units to those that have nothing to do."""
        stale = [
            link
            for link in self._links
            if link.run not in (0, run.number)
            and (link.busy or (link.ready and not link.begun))
            and not link.leaving
        ]
        for link in stale:
            link.stale_since = link.stale_since or time.monotonic()
            limit = STALE_S if link.busy else PREPARED_S
            if time.monotonic() - link.stale_since > limit:
                log.warning("a worker goes on with work that was given up: it is ended")
                link.leave()
                link.process.kill()
        free = [link for link in self._links if link not in stale and not link.leaving]
        wanted = run.ledger.waiting + sum(1 for link in free if link.busy)
        while len(self._links) < self.count and len(free) < wanted and self._may_start():
            free.append(self._start())
        for link in free:
            if link.ready and link.run != run.number and run.ledger.waiting:
                self._begin(run, link)
            while link.begun and link.run == run.number and len(link.busy) < self.capacity:
                number = run.ledger.next()
                if number is None:
                    break
                link.busy.add(number)
                link.send(pack(("unit", run.number, number, run.work.units[number])))

    def _start(self) -> Link:
        assert self._source is not None
        ours, theirs = self._context.Pipe()
        target, more = self._target()
        process = self._context.Process(
            target=target, args=(theirs, self._flags, *more), name="jeep worker", daemon=True
        )
        link = Link(process, ours, started_in=self._number)
        link.send(pack(("load", self._source)))
        link.start(theirs, self._inbox, self.grace_s)
        self._links.append(link)
        return link

    def _begin(self, run: Run, link: Link, whole: Sequence[str] = ()) -> None:
        known = link.version == run.version(whole).key and not whole
        link.run, link.begun = run.number, False
        link.send(run.beginning(known, whole))
        link.version = run.version(whole).key

    def _listen(self, run: Run, seconds: float) -> None:
        """Hear what processes have said; wait for the first to say something."""
        try:
            link, said = self._inbox.get(timeout=seconds)
            while True:
                self._heard(run, link, said)
                link, said = self._inbox.get_nowait()
        except queue.Empty:
            pass

    def _heard(self, run: Run, link: Link, said: bytes | Exception | None) -> None:
        if isinstance(said, bytes):
            if not link.leaving:
                self._told(run, link, *unpack(said))
            return
        self._links.remove(link)
        if link.leaving:
            return
        if said is not None:
            if link.started_in == run.number:
                raise said
            log.warning("a worker process of earlier work could not be used: %s", str(said))
        else:
            log.warning("worker process %d has ended (%s)", link.process.pid, ending(link.process))
        if link.run != run.number:
            link.busy.clear()
        self._died(run, link)

    def _told(self, run: Run, link: Link, kind: str, *rest: Any) -> None:
        ledger = run.ledger
        if kind == "started":
            return
        if kind == "ready":
            link.ready, self._failed_starts = True, 0
            link.others += rest
            return
        if kind == "refused":
            error, *of = rest
            link.leave()
            if link.run != run.number:
                link.busy.clear()
            # one that could not be prepared for a run that was given up says nothing of this one
            if not of or of[0] == run.number:
                self._refused(run, link, error)
            return
        number, *more = rest
        if kind in ("done", "failed", "stopped", "lost"):
            link.busy.discard(more[0])
            link.stale_since = None
        if kind in ("begun", "unlike") and number == link.run != run.number:
            # it has done with the version of work that was given up
            link.begun, link.stale_since = True, None
        if number != run.number:
            return
        if kind == "begun":
            link.begun, run.unprepared = True, 0
        elif kind == "unlike":
            self._begin(run, link, more[0])
        elif kind == "progress":
            ledger.progress(more[0], more[1])
        elif kind == "done":
            ledger.done(more[0], more[1])
        elif kind == "failed":
            ledger.failed(more[0], more[1])
        elif kind == "lost":
            ledger.lost(more[0], more[1])
        else:
            ledger.returned(more[0])


class Run:
    """One call of ``run``."""

    def __init__(self, crew: Crew, work: Work, bench: Bench, keep: Keep, number: int) -> None:
        self.work, self.bench, self.number = work, bench, number
        self.ledger = Ledger(work, keep, ahead=crew.count * crew.capacity)
        # how many processes in a row have ended while they were prepared
        self.unprepared = 0
        # of an executor whose workers can be away: why and since when none is ready; how many units
        # were left when they last went away, and how often they have with so many
        self.why = ""
        self.since: float | None = None
        self.left, self.ends = -1, 0
        self._version: Version | None = None
        self._whole: tuple[str, ...] = ()
        # packed once for all processes, as it may be large
        self._beginning: bytes | None = None

    def version(self, whole: Sequence[str] = ()) -> Version:
        """The version that is worked on, some matrices ``whole``."""
        wanted = tuple(sorted({*self._whole, *whole}))
        if self._version is None or wanted != self._whole:
            self._version, self._whole = version_of(self.bench.view, wanted), wanted
            self._beginning = None
        return self._version

    def beginning(self, known: bool, whole: Sequence[str] = ()) -> bytes:
        """The message with which a run begins; a version that is ``known`` is named only."""
        version, begin = self.version(whole), ("begin", self.number, self.work.task)
        if known:
            return pack((*begin, self.work.common, version.key))
        self._beginning = self._beginning or pack((*begin, self.work.common, version))
        return self._beginning

    def quiet(self, number: int) -> Bench:
        """A bench in this process for a unit, which reports to the books."""
        ledger, monitor = self.ledger, self.bench.monitor

        def report(phase: str, done: int, total: int) -> None:
            ledger.progress(number, done)
            monitor.report(self.work.phase, ledger.progressed, self.work.total)

        return self.bench.monitored(monitor.reporting(report))

    def finish(self) -> list[Any]:
        """The results, and the last report.

        Raises:
            What the first unit has raised that failed.
        """
        results = self.ledger.results()
        self.bench.monitor.report(self.work.phase, self.work.total, self.work.total)
        return results
