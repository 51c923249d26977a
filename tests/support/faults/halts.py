"""Places at which a process can be halted, so that it can be broken exactly there.

A process that reaches the place named by the file ``wanted`` writes ``reached`` and waits until
``wanted`` is gone, as if its disk or its processor had stalled.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PHASES = ("validate", "moments", "optimise", "solve", "write", "swap")
"""The phases of an edit; a worker halts at the beginning of each."""
STEPS = ("tensors", "rename", "reflog", "record", "finish")
"""Steps between a phase's writes: before each tensor, before a version gets its name, between
head and its reflog line, before a job's record is saved, before the queue hears of the end."""
READING = ("read begin", "read work", "read seal", "read record", "read finish")
"""Steps of an evaluation, a probe or a training: before its runner begins, in the middle of it,
before the hashes of its report are written, before its record is saved, before the queue hears."""
EXPORTING = ("read described", "read placed")
"""Steps of an export: before its folder gets the record of its hashes, when it is in its place."""
CONVERTING = ("read convert", "read quantise", "read ask")
"""Steps of an export as GGUF: while llama.cpp's converter runs, its quantiser, its server."""
MOVING = ("rollback swap", "rollback reflog")
"""Steps of a rollback: before head moves, between head and its reflog line."""
DROPPING = ("retention drop", "retention thin")
"""Steps of retention: before it looks once more at what it may drop, and before it says so."""
PUSHING = ("targets artefact", "targets load", "targets proof", "targets record", "targets unload")
"""Steps of a push: before the artefact is written, before the server is asked to load it, before it
is asked questions, before the outcome is recorded, before it is asked to unload what is old."""
FETCHING = ("fetch begin", "fetch chunk", "fetch part", "fetch placed", "fetch head")
"""Steps of a follower that fetches: before it asks for a tensor, when a piece of it has come,
before its hash is compared, when it is in its place, before a new head is written down."""
DECODING = "decode"
"""Before a token is written."""
ACCEPTING = ("mark", "journal", "submit", "accepted")
"""Steps of the api while it takes a job: before and after it is marked as open, before it is
queued, before the answer is given."""

_LANES = {"edits": "", "reads": "read ", "rollback": "rollback ", "retention": "retention ",
          "targets": "targets "}  # fmt: skip
"""Beginnings of the threads' names, and of their places' names."""
_PHASE_OF = {
    "moments": "moments",
    "optimise": "optimise",
    "write": "solve",
    "gradients": "gradients",
    "fine-tune": "fine-tune",
    "anchor": "anchor",
}
"""The library's names for the parts of an edit."""


class Halts:
    """The folder of one process."""

    def __init__(self, folder: Path) -> None:
        self._wanted, self._reached = folder / "wanted", folder / "reached"
        self._exhausted = folder / "exhausted"

    def at(self, place: str) -> None:
        """Wait here if requested; then run out of memory if requested."""
        if _said(self._wanted) == place:
            self._reached.write_text(place)
            while self._wanted.exists():
                time.sleep(0.005)
        if _said(self._exhausted) == place:
            from torch import OutOfMemoryError

            self._exhausted.unlink()
            raise OutOfMemoryError("nothing is left of the device's memory (injected)")

    # ------------------------------------------------------------ for the harness

    def want(self, place: str) -> None:
        """Halt at the next time that the process comes to ``place``."""
        self._reached.unlink(missing_ok=True)
        aside = self._wanted.with_suffix(".new")
        aside.write_text(place)
        aside.replace(self._wanted)

    def exhaust(self, place: str) -> None:
        """Have the device's memory run out once, at the next time that the process is there."""
        self._exhausted.write_text(place)

    def reached(self) -> bool:
        """Whether the process has halted."""
        return self._reached.exists()

    def let_go(self) -> None:
        """Continue, now and in future."""
        self._wanted.unlink(missing_ok=True)
        self._reached.unlink(missing_ok=True)


def _said(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _before(owner: Any, name: str, reach: Callable[..., None]) -> None:
    """Call ``reach`` with the same arguments before every call of ``owner.name``."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def halting(*args: Any, **more: Any) -> Any:
        reach(*args, **more)
        return original(*args, **more)

    setattr(owner, name, halting)


def _after(owner: Any, name: str, reach: Callable[..., None]) -> None:
    """Call ``reach`` with the same arguments after every call of ``owner.name``."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def halting(*args: Any, **more: Any) -> Any:
        found = original(*args, **more)
        reach(*args, **more)
        return found

    setattr(owner, name, halting)


def in_worker(folder: Path) -> None:
    """Let this process halt at the phases and steps of its lanes, each of which is a thread."""
    from jeep_core.exports.gguf import tools
    from jeep_core.exports.gguf.server import LlamaServer
    from service.queue import JobQueue
    from service.store import head, versions
    from service.store.drafts import Drafts
    from service.store.exports import Exports
    from service.store.index import moves
    from service.store.journal import Journal
    from service.store.reports import Reports
    from service.store.tensors import Tensors
    from service.worker.decoding.decode_loop import DecodeLoop
    from service.worker.kinds import exports
    from service.worker.lanes.control import JobControl
    from service.worker.lanes.write_task import WriteTask
    from service.worker.targets.pusher import Pusher
    from service.worker.versions import retention

    halts = Halts(folder)

    def reach(place: str) -> None:
        name = threading.current_thread().name
        lane = next((lane for thread, lane in _LANES.items() if name.startswith(thread)), None)
        if lane is not None:
            halts.at(f"{lane}{place}")

    def at(place: str) -> Callable[..., None]:
        return lambda *args, **more: reach(place)

    def phase(control: JobControl, name: str, done: int, total: int) -> None:
        if control.__class__ is JobControl:
            reach(_PHASE_OF.get(name.split()[0], ""))
        elif done > 0:
            reach("work")

    def program(command: object, out: object, at_start: object, name: str, *more: object) -> None:
        reach({tools.CONVERTER: "convert", tools.QUANTIZER: "quantise"}.get(name, ""))

    def rename(place: Path) -> None:
        if place.parent.name == "staging":
            reach("rename")

    _before(WriteTask, "begin", at("validate"))
    _before(JobControl, "progress", phase)
    _before(Tensors, "put", at("tensors"))
    _before(versions.Versions, "write", at("write"))
    _before(versions, "fsync_folder", rename)
    _before(head.HeadPointer, "move", at("swap"))
    _before(moves, "append_line", at("reflog"))
    _before(Journal, "save", at("record"))
    _before(JobQueue, "finish", at("finish"))
    _before(Drafts, "work_folder", at("begin"))
    _before(Reports, "seal", at("seal"))
    _before(exports, "write_record", at("described"))
    _before(Exports, "retire", at("placed"))
    _after(tools, "started", program)
    _before(LlamaServer, "answer", at("ask"))
    _before(retention, "drop_tensors", at("drop"))
    _before(versions.Versions, "mark_thin", at("thin"))
    _before(Pusher, "_reach", lambda self, place: reach(place))
    _before(DecodeLoop, "_step", lambda *args, **more: halts.at(DECODING))


def in_fetching(folder: Path) -> None:
    """Let this process halt while it fetches; tensors come in small pieces."""
    from service.client.synchronous import transport
    from service.worker.fetching import mirror
    from service.worker.fetching.source import ApiSource

    halts = Halts(folder)

    def piece(call: Any, *given: Any) -> None:
        if getattr(call, "__name__", "") == "write":
            halts.at("fetch chunk")

    transport._CHUNK = 512
    _before(ApiSource, "tensor", lambda *args, **more: halts.at("fetch begin"))
    _after(transport, "aside", piece)
    _before(transport, "is_whole", lambda *args, **more: halts.at("fetch part"))
    _after(ApiSource, "tensor", lambda *args, **more: halts.at("fetch placed"))
    _before(mirror, "write", lambda *args, **more: halts.at("fetch head"))


def in_api(folder: Path) -> None:
    """Let this process halt while it takes a job."""
    from service.api.jobs import submitting
    from service.api.reconcile import Reconciler
    from service.store import journal

    halts = Halts(folder)

    def creating(path: Path, data: bytes) -> None:
        halts.at("journal")

    _before(journal.Journal, "add", lambda *args: halts.at("mark"))
    _before(journal, "create", creating)
    _before(Reconciler, "submit", lambda *args: halts.at("submit"))
    _before(submitting, "accepted", lambda *args, **more: halts.at("accepted"))
