"""Processes that stand still: a run can be cancelled whatever they are in the middle of."""

from __future__ import annotations

import gc
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest

from jeep_core.errors import Cancelled
from jeep_core.executors import crew as crew_module
from jeep_core.executors import link as link_module
from jeep_core.executors.crew import Crew, Run
from jeep_core.executors.link import Link
from jeep_core.executors.version import Source, Version
from jeep_core.executors.wire import pack, unpack
from jeep_core.executors.work import Bench, Work, keep_nothing
from jeep_core.monitor import Monitor

PATIENCE_S = 30.0
"""Nobody waits for so long where things are as they should be."""
LARGE = bytes(8 * 2**20)
"""More than a pipe holds."""
Play = Callable[["Played", Connection], None]


class Played:
    """A process that a thread plays: ``kill`` sets ``killed``, after which it ends."""

    def __init__(self, target: Play, args: tuple[Any, ...], **_: Any) -> None:
        self._play, self._theirs = target, args[0]
        self.sentinel, self._life = os.pipe()
        self.pid: int | None = None
        self.exitcode: int | None = None
        self.killed = threading.Event()

    def start(self) -> None:
        self.pid = 2**31 - 1
        pipe = Connection(os.dup(self._theirs.fileno()))
        threading.Thread(target=self._run, args=(pipe,), daemon=True).start()

    def _run(self, pipe: Connection) -> None:
        try:
            with pipe:
                self._play(self, pipe)
        except (EOFError, OSError):
            pass
        self.exitcode = -9 if self.killed.is_set() else 0
        os.close(self._life)

    def is_alive(self) -> bool:
        return self.exitcode is None

    def kill(self) -> None:
        self.killed.set()

    def join(self, seconds: float | None = None) -> None:
        wait([self.sentinel], seconds)

    def __del__(self) -> None:
        os.close(self.sentinel)


class Cast(Crew):
    """One process, which is played."""

    grace_s = 0.1

    def __init__(self, *plays: Play, process: type[Played] = Played) -> None:
        super().__init__()
        self._plays = iter(plays)
        self._source = Source("/nowhere", "none", "float32", "cpu", "hash")
        self._context = Context(process, self._context.Pipe)  # type: ignore[assignment]

    def _target(self) -> tuple[Play, tuple[Any, ...]]:
        return next(self._plays), ()

    def work(self, common: Any = None, cancel: threading.Event | None = None) -> Run | str:
        """A run of two units, or the exception that it has ended with; waited for with patience."""
        self._number += 1
        bench = Bench.__new__(Bench)
        object.__setattr__(bench, "monitor", Monitor(check=lambda: end_at(cancel)))
        units = Work("jeep_core.values.units:unit", "values", common, [1, 2], [9, 9])
        run = Run(self, units, bench, keep_nothing, self._number)
        run._version = Version("key", {}, {}, {})
        found: list[Run | str] = []

        def go() -> None:
            try:
                self._work(run)
                found.append(run)
            except Exception as error:
                found.append(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=go, daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        return found[0] if found else "it goes on for ever"


class Context:
    def __init__(self, process: type[Played], pipe: Any) -> None:
        self.Process, self.Pipe = process, pipe


def end_at(event: threading.Event | None) -> None:
    if event is not None and event.is_set():
        raise Cancelled("enough")


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Neither threads nor open files, once a crew was closed."""
    threads, files = set(threading.enumerate()), open_files()
    yield
    while left := set(threading.enumerate()) - threads:  # one may have started another
        for thread in left:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), thread.name
    gc.collect()  # an exception and the frames that it went through know one another
    assert not open_files() - files


def open_files() -> set[str]:
    """Pipes and sockets of this process."""
    found = []
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the folder itself
            found.append(str(file.readlink()))
    return {name for name in found if name.startswith(("pipe:", "socket:"))}


def works(process: Played, pipe: Connection) -> None:
    """As a worker does."""
    while True:
        kind, *rest = unpack(pipe.recv_bytes())
        if kind == "load":
            pipe.send_bytes(pack(("ready",)))
        elif kind == "begin":
            pipe.send_bytes(pack(("begun", rest[0])))
        else:
            run, number, unit = rest
            pipe.send_bytes(pack(("done", run, number, unit * 10)))


def results(run: Run | str) -> Any:
    return run.ledger.results() if isinstance(run, Run) else run


def stops_within_a_result(reached: threading.Event) -> Play:
    def play(process: Played, pipe: Connection) -> None:
        for answer in (("ready",), ("begun", 1)):
            pipe.recv_bytes()
            pipe.send_bytes(pack(answer))
        pipe.recv_bytes()
        os.write(pipe.fileno(), struct.pack("!i", 1_000_000) + b"x" * 1000)
        reached.set()
        process.killed.wait(2 * PATIENCE_S)

    return play


def slow_to_start(reached: threading.Event, go_on: threading.Event) -> type[Played]:
    class Slow(Played):
        def start(self) -> None:
            reached.set()
            go_on.wait(2 * PATIENCE_S)
            super().start()

    return Slow


def test_a_run_is_cancelled_while_its_process_is_being_started() -> None:
    reached, go_on = threading.Event(), threading.Event()

    crew = Cast(works, process=slow_to_start(reached, go_on))
    assert crew.work(cancel=reached) == "Cancelled: enough"
    assert crew.pids() == []
    go_on.set()
    assert results(crew.work()) == [10, 20], "the next run has the same process"
    crew.close()


def test_a_process_that_comes_up_after_its_crew_was_closed_ends() -> None:
    reached, go_on = threading.Event(), threading.Event()

    crew = Cast(
        lambda process, pipe: void(process.killed.wait(PATIENCE_S)),
        process=slow_to_start(reached, go_on),
    )
    assert crew.work(cancel=reached) == "Cancelled: enough"
    crew.close()
    go_on.set()


def void(_: object) -> None:
    """Give nothing."""


def test_a_run_is_cancelled_while_a_result_is_read_of_a_process_that_was_stopped() -> None:
    reached = threading.Event()
    with Cast(stops_within_a_result(reached)) as crew:
        assert crew.work(cancel=reached) == "Cancelled: enough"


def test_such_a_process_is_replaced_in_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_module, "STALE_S", -1.0)
    reached = threading.Event()
    with Cast(stops_within_a_result(reached), works) as crew:
        assert crew.work(cancel=reached) == "Cancelled: enough"
        assert results(crew.work()) == [10, 20]


def test_a_run_is_cancelled_while_its_process_does_not_read_the_version() -> None:
    reached = threading.Event()

    def deaf(process: Played, pipe: Connection) -> None:
        pipe.recv_bytes()
        pipe.send_bytes(pack(("ready",)))
        assert pipe.poll(PATIENCE_S)
        reached.set()
        process.killed.wait(2 * PATIENCE_S)

    with Cast(deaf) as crew:
        assert crew.work(common=LARGE, cancel=reached) == "Cancelled: enough"


def test_one_that_never_has_done_with_a_version_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crew_module, "PREPARED_S", -1.0)
    reached = threading.Event()

    def prepares(process: Played, pipe: Connection) -> None:
        pipe.recv_bytes()
        pipe.send_bytes(pack(("ready",)))
        pipe.recv_bytes()
        reached.set()
        process.killed.wait(2 * PATIENCE_S)

    with Cast(prepares, works) as crew:
        assert crew.work(cancel=reached) == "Cancelled: enough"
        assert results(crew.work()) == [10, 20]


def test_one_that_is_slow_with_the_version_of_earlier_work_is_not() -> None:
    reached, go_on = threading.Event(), threading.Event()

    def slow(process: Played, pipe: Connection) -> None:
        pipe.recv_bytes()
        pipe.send_bytes(pack(("ready",)))
        _, run, *_ = unpack(pipe.recv_bytes())
        reached.set()
        assert go_on.wait(PATIENCE_S)
        pipe.send_bytes(pack(("begun", run)))
        works(process, pipe)

    with Cast(slow) as crew:
        assert crew.work(cancel=reached) == "Cancelled: enough"
        threading.Timer(0.3, go_on.set).start()
        assert results(crew.work()) == [10, 20]


def test_the_time_in_which_nobody_listens_is_no_time_of_a_process() -> None:
    """An evaluation waits for edits where it asks whether it is to end."""
    crew = Cast()
    run = Run.__new__(Run)
    run.since = 100.0
    crew._links = [Link(None, None, stale_since=90.0), Link(None, None)]  # type: ignore[arg-type]
    crew._held_up(run, 50.0)
    assert (run.since, [link.stale_since for link in crew._links]) == (150.0, [140.0, None])
    crew._links = []


def test_what_was_said_while_nobody_listened_is_heard_before_anything_is_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, told, ready = threading.Event(), list[str](), list[bool]()

    def waits(process: Played, pipe: Connection) -> None:
        assert asked.wait(PATIENCE_S)
        works(process, pipe)

    class HeldUp(threading.Event):
        """While it is asked for a cancel, the process starts and says that it is ready."""

        def is_set(self) -> bool:
            asked.set()
            while len(told) + crew._inbox.qsize() < 2:
                time.sleep(0.001)
            return False

    def hear(run: Run, link: Link, kind: str, *rest: Any) -> None:
        told.append(kind)
        Crew._told(crew, run, link, kind, *rest)

    def look(run: Run) -> None:
        if asked.is_set():
            ready.append(crew._links[0].ready)

    with Cast(waits) as crew:
        monkeypatch.setattr(crew, "_told", hear)
        monkeypatch.setattr(crew, "_look", look)
        assert results(crew.work(cancel=HeldUp())) == [10, 20]
    assert all(ready)


def test_a_process_that_does_not_die_keeps_no_other_from_starting() -> None:
    """As in the middle of a read from a disk that does not answer."""
    reached, over = threading.Event(), threading.Event()

    def undying(process: Played, pipe: Connection) -> None:
        reached.set()
        over.wait(2 * PATIENCE_S)

    first = Cast(undying)
    assert first.work(cancel=reached) == "Cancelled: enough"
    [link] = first._links
    first.close()
    process: Any = link.process
    assert process.killed.wait(PATIENCE_S)
    with Cast(works) as other:
        assert results(other.work()) == [10, 20]
    over.set()


def test_a_start_that_fails_after_its_run_is_no_error_of_the_next() -> None:
    reached, go_on = threading.Event(), threading.Event()

    class Late(Played):
        starts = 0

        def start(self) -> None:
            Late.starts += 1
            if Late.starts > 1:
                return super().start()
            os.close(self._life)
            reached.set()
            go_on.wait(2 * PATIENCE_S)
            raise BlockingIOError("no more processes")

    with Cast(works, works, process=Late) as crew:
        assert crew.work(cancel=reached) == "Cancelled: enough"
        go_on.set()
        assert results(crew.work()) == [10, 20]


def test_a_process_without_a_thread_to_write_to_it_is_ended_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Scarce(threading.Thread):
        def start(self) -> None:
            if self._target is link_module._write:  # type: ignore[attr-defined]
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(link_module.threading, "Thread", Scarce)
    with Cast(works) as crew:
        assert crew.work() == "RuntimeError: can't start new thread"
        assert crew.pids() == []


def test_a_large_version_is_read_in_time_and_the_work_is_done() -> None:
    with Cast(works) as crew:
        assert results(crew.work(common=LARGE)) == [10, 20]


def test_why_a_process_cannot_be_started_is_the_error_of_the_run() -> None:
    class Refused(Played):
        def start(self) -> None:
            os.close(self._life)
            raise BlockingIOError("no more processes")

    with Cast(works, process=Refused) as crew:
        assert crew.work() == "BlockingIOError: no more processes"
        assert crew.pids() == []


def test_what_a_process_has_said_before_it_died_counts() -> None:
    def dies(process: Played, pipe: Connection) -> None:
        works_once(pipe)

    with Cast(dies, dies) as crew:
        assert results(crew.work()) == [10, 20]


def works_once(pipe: Connection) -> None:
    for answer in (("ready",), ("begun", 1)):
        pipe.recv_bytes()
        pipe.send_bytes(pack(answer))
    _, run, number, unit = unpack(pipe.recv_bytes())
    pipe.send_bytes(pack(("done", run, number, unit * 10)))


def test_a_crew_that_nobody_has_any_more_ends_its_process() -> None:
    """Its threads know the process, not the crew."""
    assert results(Cast(works).work()) == [10, 20]


def test_what_a_run_begins_with_is_packed_once_for_all_processes() -> None:
    bench = Bench.__new__(Bench)
    run = Run(Cast(), Work("t", "values", LARGE, [1], [1]), bench, keep_nothing, 1)
    run._version = Version("key", {}, {}, {})
    first = run.beginning(False)
    assert run.beginning(False) is first
    assert unpack(first)[:4] == ("begin", 1, "t", LARGE)
    assert unpack(run.beginning(True))[-1] == "key"
    assert len(run.beginning(True)) > len(LARGE), "units go by what is common to them"
    assert unpack(first)[-1] == run._version
