"""A process at the other end of a pipe.

Whatever can block for as long as the other side likes (to start a process, to write to it, to read
from it, to wait for its end) is left to two threads for each process.  What they find out is put
into an inbox, which can be waited at with a limit.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any

from jeep_core.executors.ledger import EXIT
from jeep_core.executors.wire import pack

log = logging.getLogger(__name__)
Inbox = SimpleQueue[tuple["Link", "bytes | Exception | None"]]
"""What processes say: messages, and at its end None, or why it could not be started or read."""
ONE_AT_A_TIME = threading.Lock()
"""Held while a process is started and while the end of one is read: to start one looks at the ends
of all others, and an exit code can be read once."""


@dataclass(eq=False)
class Link:
    """A process and what it was told.  ``busy``: the numbers of the units that it has."""

    process: Any
    pipe: Connection
    # the run for which it was started
    started_in: int = 0
    ready: bool = False
    # the run that it was sent the beginning of, and whether it is prepared
    run: int = 0
    begun: bool = False
    version: str | None = None
    busy: set[int] = field(default_factory=set)
    stale_since: float | None = None
    # process ids of workers that it has started itself
    others: list[int] = field(default_factory=list)
    # it is to end, and nothing that it still says is listened to
    leaving: bool = False
    outbox: SimpleQueue[bytes | None] = field(default_factory=SimpleQueue)
    thread: threading.Thread | None = None

    def start(self, theirs: Connection, inbox: Inbox, grace_s: float) -> None:
        """Have the process started, which is given ``theirs``, and what it says put into ``inbox``.

        ``grace_s``: seconds that it may take to end after its pipe is closed.
        """
        self.thread = threading.Thread(
            target=_live, args=(self, theirs, inbox, grace_s), name="jeep link", daemon=True
        )
        self.thread.start()

    def send(self, message: bytes) -> None:
        """Have bytes sent, once it reads; that it has died shows elsewhere."""
        self.outbox.put(message)

    def leave(self) -> None:
        """Have the process end: it is killed if it does not after its grace."""
        self.leaving = True
        self.hang_up()

    def hang_up(self) -> None:
        """End what either side still does at the pipe.

        Unlike a close it also wakes threads that wait there; what was sent can still be read.
        """
        with suppress(OSError), socket.socket(fileno=os.dup(self.pipe.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)


def _live(link: Link, theirs: Connection, inbox: Inbox, grace_s: float) -> None:
    """Start a process, listen to it and see it end."""
    process, pipe = link.process, link.pipe
    try:
        with ONE_AT_A_TIME:
            process.start()
    except Exception as error:
        inbox.put((link, error))
        return
    finally:
        theirs.close()
    log.info("worker process %d has started", process.pid)
    writing = threading.Thread(
        target=_write, args=(pipe, link.outbox), name="jeep link", daemon=True
    )
    failed: Exception | None = None
    try:
        writing.start()
        inbox.put((link, pack(("started",))))  # it has an id from now on
        while pipe in wait([pipe, process.sentinel]):
            inbox.put((link, pipe.recv_bytes()))
    except (EOFError, OSError):
        pass
    except Exception as error:  # such as too many threads
        failed = error
    link.hang_up()
    link.outbox.put(None)
    if writing.ident is not None:
        writing.join()
    if not wait([process.sentinel], grace_s):
        process.kill()
        # for as long as the system takes, and others may start meanwhile
        wait([process.sentinel])
    with ONE_AT_A_TIME:
        process.join()
    inbox.put((link, failed))


def _write(pipe: Connection, outbox: SimpleQueue[bytes | None]) -> None:
    with suppress(OSError):
        while (message := outbox.get()) is not None:
            pipe.send_bytes(message)
            del message  # it may be large, and the next one may be long in coming


def ending(process: Any) -> str:
    """How a process has ended."""
    code = process.exitcode
    if code is None:
        return "it does not answer"
    return f"signal {-code}" if code < 0 else f"{EXIT} {code}"
