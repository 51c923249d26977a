"""The process that speaks to a Ray cluster: units of its caller to actors, results back.

The main thread alone calls Ray; another one reads the pipe.  Messages are those of
``jeep_core/executors/child.py``, and units come several at a time.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from jeep_core.errors import NoCluster, WorkersLost, reason_of
from jeep_core.executors.child import HELD, PAUSE, STOPPED
from jeep_core.executors.crew import PREPARED_S, STALE_S, STARTS
from jeep_core.executors.ray.beside import beside
from jeep_core.executors.ray.seats import Place, Seat
from jeep_core.executors.ray.terms import LOCAL, ClusterTerms, set_environment
from jeep_core.executors.version import Source, Version
from jeep_core.executors.wire import pack, unpack

LOOK_S = 0.1
"""How long a message or an answer is waited for, before it is asked whether the run goes on."""
REST_S = 0.005
"""For how long actors are told to rest at least: what is less is added to the next."""
ASK_S = 1.0
"""How often actors are asked how far they are."""
STORE_BYTES = 100 * 2**20
"""Of a cluster on this machine, for what is under way: facts and results are small."""


def main(pipe: Connection, flags: Any, terms: ClusterTerms) -> None:
    """Work until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_environment(terms)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                inbox.put(unpack(pipe.recv_bytes()))
        inbox.put(None)

    threading.Thread(target=listen, daemon=True).start()
    try:
        ray = _connect(terms)
    except BaseException as error:
        _say(pipe, "refused", NoCluster(f"{_where(terms)} cannot be reached: {reason_of(error)}"))
        sys.exit(1)
    try:
        Driver(ray, pipe, flags, terms, inbox).serve()
    except Exception as error:
        if isinstance(error, MemoryError):
            # Ray's own kind of it, which cannot be sent, has the actor's as its cause
            _say(pipe, "refused", MemoryError(reason_of(getattr(error, "cause", None) or error)))
        else:
            why = f"{_where(terms)} cannot be used: {reason_of(error)}"
            _say(pipe, "refused", NoCluster(why))
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()
        os._exit(0)


def _connect(terms: ClusterTerms) -> Any:
    ray: Any = import_module("ray")
    more: dict[str, Any] = {}
    if terms.address == LOCAL:
        # a node that has loopback's address listens there alone
        more = {
            "num_cpus": max(1, int(terms.actors * terms.cpus + 0.999)),
            "object_store_memory": STORE_BYTES,
            "_temp_dir": terms.folder,
            "_node_ip_address": "127.0.0.1",
        }
        if not terms.gpus:
            more["num_gpus"] = 0
    ray.init(
        address=terms.address,
        include_dashboard=False if terms.address == LOCAL else None,
        log_to_driver=False,
        logging_level="ERROR",
        **more,
    )
    # Ray has put its own in place, which prints a stack trace
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return ray


def _where(terms: ClusterTerms) -> str:
    local = terms.address == LOCAL
    return "a Ray cluster on this machine" if local else f"the Ray cluster at {terms.address}"


def _say(pipe: Connection, *message: Any) -> None:
    with contextlib.suppress(OSError):
        pipe.send_bytes(pack(message))


class Driver:
    """Hands units to actors; one that dies is replaced, and its unit given back as lost.

    So is one that has not ended a unit ten seconds after that was given up, or has not made the
    version of such work after two minutes.  Where actors cannot work, while others can, no other
    is tried for some minutes.
    """

    def __init__(
        self, ray: Any, pipe: Connection, flags: Any, terms: ClusterTerms, inbox: Any
    ) -> None:
        from jeep_core.executors.ray.actor import Actor

        self._ray, self._pipe, self._flags, self._terms = ray, pipe, flags, terms
        self._inbox = inbox
        self._class = ray.remote(Actor)
        # of this process's own node or of the cluster, not of one actor; and a limit of memory that
        # an answer itself is beyond
        exceptions = ray.exceptions
        self._ends = (exceptions.LocalRayletDiedError, exceptions.RaySystemError, MemoryError)
        self._source: Source | None = None
        self._seats: list[Seat] = []
        self._places = [Place() for _ in range(terms.actors)]
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._run = 0
        # the key of the version that is worked on, and where Ray has it
        self._version = ""
        self._put: Any = None
        self._beginning: bytes | None = None
        self._asked = self._waited = 0.0
        # how long the caller was made to wait, and actors beside it too, in nanoseconds
        self._held = flags[HELD]
        # why the last actor was lost, and what was said last of there being none
        self._ended = self._said = ""
        # actors that have died while they were prepared, since one was
        self._unprepared = 0

    def serve(self) -> None:
        """Work until the caller has gone."""
        while True:
            try:
                # while answers are awaited these are waited for, in Ray: whoever only looked for
                # them would take time from actors on this machine
                message = self._inbox.get(timeout=0.0 if self._awaited() else LOOK_S)
                while True:
                    if message is None:
                        return
                    self._heard(*message)
                    message = self._inbox.get_nowait()
            except queue.Empty:
                pass
            if self._source is None:
                continue
            self._fill()
            self._say_if_none_is_ready()
            self._stop_if_asked()
            self._end_stale()
            self._hand_out()
            self._make_way()
            self._ask()
            self._collect(LOOK_S)

    def _heard(self, kind: str, *rest: Any) -> None:
        if kind == "load":
            self._source = rest[0]
        elif kind == "begin":
            run, task, common, version = rest
            if isinstance(version, Version):
                # the one before it goes first, as there may not be room for both
                self._put, self._version = None, version.key
                self._put = self._ray.put(pack(version))
            if run != self._run:
                self._run, self._unprepared = run, 0
                self._waiting.clear()
            self._beginning = pack((task, common, self._version))
            _say(self._pipe, "begun", run)
        else:
            run, number, unit = rest
            if run == self._run:
                self._waiting.append((number, pack(unit)))

    def _fill(self) -> None:
        """Have as many actors as there shall be."""
        now, taken = time.monotonic(), {id(seat.place) for seat in self._seats}
        others_work = any(seat.is_ready for seat in self._seats)
        for place in self._places:
            if id(place) in taken or not place.may_start(now, others_work):
                continue
            options: dict[str, Any] = {
                "num_cpus": self._terms.cpus,
                "num_gpus": self._terms.gpus,
                "max_concurrency": 2,
            }
            if self._terms.memory_bytes is not None:
                options["memory"] = self._terms.memory_bytes
            actor = self._class.options(**options).remote(
                self._source, self._terms.threads, self._terms.memory_bytes
            )
            self._seats.append(Seat(actor, actor.ready.remote(), place))

    def _say_if_none_is_ready(self) -> None:
        """The caller decides how long it waits for the first actor, and for one after the last."""
        now = time.monotonic()
        if any(seat.is_ready for seat in self._seats):
            self._said = ""
            return
        if now - self._waited < ASK_S:
            return
        self._waited = now
        have = {name: n for name, n in self._ray.cluster_resources().items() if ":" not in name}
        why = (
            f"{_where(self._terms)} has no worker that is ready: each needs {self._terms.cpus:g} "
            f"CPUs and {self._terms.gpus:g} GPUs, and the cluster has {have}"
        )
        ended = f"; the last one has ended ({self._ended})" if self._ended else ""
        if why + ended != self._said:  # nobody may listen for hours
            self._said = why + ended
            _say(self._pipe, "waits", self._said)

    def _stop_if_asked(self) -> None:
        if self._flags[STOPPED] < self._run:
            return
        for number, _ in self._waiting:
            _say(self._pipe, "stopped", self._run, number)
        self._waiting.clear()
        for seat in self._seats:
            if seat.task is not None and seat.task >= 0:
                seat.actor.stop.remote(self._run)
                _say(self._pipe, "stopped", self._run, seat.task)
                seat.task = -1  # its answer is not wanted
                seat.stale_since = time.monotonic()

    def _end_stale(self) -> None:
        """End actors that go on with what was given up: not all code asks whether it is."""
        now, over = time.monotonic(), self._flags[STOPPED] >= self._run
        for seat in [*self._seats]:
            prepares = seat.beginning is not None
            if prepares:
                # a run after it may be on the same version
                another = seat.begun is not self._beginning and seat.version != self._version
                seat.stale_since = (seat.stale_since or now) if over or another else None
            limit = PREPARED_S if prepares else STALE_S
            if seat.stale_since is not None and now - seat.stale_since > limit:
                self._lost(seat, "it went on with work that was given up")

    def _awaited(self) -> dict[Any, Seat]:
        """The references to answers that have not come, and whose they are."""
        return {
            ref: seat
            for seat in self._seats
            for ref in (
                seat.answer,
                seat.beginning,
                seat.asked,
                None if seat.is_ready else seat.ready,
            )
            if ref is not None
        }

    def _collect(self, wait_s: float = 0.0) -> None:
        """Take answers; wait for the first one so long."""
        refs = self._awaited()
        if not refs:
            return
        done, _ = self._ray.wait(list(refs), num_returns=1, timeout=wait_s)
        for ref in done:
            seat = refs[ref]
            if seat not in self._seats:
                continue
            try:
                found = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                if isinstance(error, self._ends):
                    raise
                # such as one that Ray's memory monitor has killed
                self._lost(seat, reason_of(error))
                continue
            self._answered(seat, ref, found)

    def _answered(self, seat: Seat, ref: Any, found: Any) -> None:
        if ref is seat.asked:
            seat.asked = None
            if seat.task is not None and seat.task >= 0:
                _say(self._pipe, "progress", self._run, seat.task, found)
        elif ref is seat.beginning:
            seat.beginning = seat.stale_since = None
            unlike = unpack(found)
            if unlike:
                seat.version = None
            if seat.begun is not self._beginning:
                seat.begun = None  # of a run that was given up: it is sent this one's
            elif isinstance(unlike, BaseException):
                _say(self._pipe, "refused", unlike, self._run)
            elif unlike:
                seat.begun = None
                self._beginning = None  # until the caller has sent another one
                _say(self._pipe, "unlike", self._run, unlike)
            else:
                self._unprepared = 0
        elif ref is seat.answer:
            number, seat.answer, seat.task = seat.task, None, None
            seat.stale_since = None
            kind, result = unpack(found)
            if number is not None and number >= 0:
                rest = () if kind == "stopped" else (result,)
                _say(self._pipe, kind, self._run, number, *rest)
        else:
            seat.ready = None  # heard
            failed = unpack(found[1])
            if failed is not None:
                self._lost(seat, reason_of(failed), failed)
                return
            seat.is_ready, seat.beside = True, beside(found[2], self._terms.where)
            seat.place.is_ready()
            for place in self._places:  # an actor may be placed on any machine: one of them works
                place.refused = None
            _say(self._pipe, "ready", found[0])

    def _lost(self, seat: Seat, why: str, refused: BaseException | None = None) -> None:
        self._seats.remove(seat)
        self._ended = why
        if not seat.is_ready:
            self._failed_to_load(seat.place, why, refused)
        if seat.task is not None and seat.task >= 0:
            _say(self._pipe, "lost", self._run, seat.task, why)
        if seat.beginning is not None and seat.begun is self._beginning:
            self._unprepared += 1
            if self._unprepared >= STARTS * self._terms.actors:
                lost = WorkersLost(
                    f"{self._unprepared} workers of {_where(self._terms)} in a row ended while "
                    f"they made the version that is worked on ({why}): a worker may have too "
                    "little memory for it"
                )
                _say(self._pipe, "refused", lost, self._run)
        with contextlib.suppress(Exception):
            self._ray.kill(seat.actor)

    def _failed_to_load(self, place: Place, why: str, refused: BaseException | None) -> None:
        place.failed(time.monotonic(), refused)
        refusals = [one.refused for one in self._places if one.refused is not None]
        if len(refusals) == len(self._places):
            _say(self._pipe, "refused", refusals[0])
            return
        if place.deaths > STARTS:
            return  # it was said
        then = "no other is tried in its place for minutes while others work"
        if not place.is_left_out:
            then = "another one is started"
        what = f"{_where(self._terms)}: a worker cannot be made ready ({why}); {then}"
        _say(self._pipe, "warns", what)

    def _hand_out(self) -> None:
        for seat in self._seats:
            if not seat.is_ready or seat.task is not None or self._beginning is None:
                continue
            if not self._waiting:
                return
            if seat.begun is not self._beginning:
                if seat.beginning is None:
                    there = seat.version == self._version
                    seat.begun, seat.version = self._beginning, self._version
                    seat.beginning = seat.actor.begin.remote(
                        self._beginning, None if there else self._put
                    )
                continue
            if seat.beginning is None:
                number, unit = self._waiting.popleft()
                seat.task, seat.answer = number, seat.actor.work.remote(self._run, unit)

    def _make_way(self) -> None:
        """Have actors that compute where the caller does rest for as long as it was made to wait.

        Its turns are shorter than a message is worth: what they come to since is told at once.
        """
        # in this order: a wait that ends between the two counts in the next turn, and not twice
        held, since = self._flags[HELD], self._flags[PAUSE]
        held += time.monotonic_ns() - since if since else 0
        seconds = (held - self._held) / 1e9
        if seconds < REST_S:
            return
        self._held = held
        for seat in self._seats:
            if seat.beside and seat.task is not None and seat.task >= 0:
                seat.actor.rest.remote(seconds)

    def _ask(self) -> None:
        now = time.monotonic()
        if now - self._asked < ASK_S:
            return
        self._asked = now
        for seat in self._seats:
            if seat.task is not None and seat.task >= 0 and seat.asked is None:
                seat.asked = seat.actor.progress.remote()
