"""For every worker: the model, lanes on threads of their own, a heartbeat."""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import torch

from jeep_core.errors import is_out_of_memory, reason_of
from jeep_core.executors.threads import use_threads
from jeep_core.models.loading import LoadedModel, load
from service.contracts.jobs import now
from service.contracts.schemas.worker import WorkerState
from service.ops.metrics_page import page_of
from service.ops.release import program_version
from service.queue import (
    Client,
    Heartbeat,
    Keys,
    LeaseLost,
    Members,
    QueueFailure,
    RequestQueue,
    WorkerBeat,
)
from service.settings import EXIT_AGAIN, EXIT_CONFIG, Settings
from service.store import StaleFence, Store, denial, is_denied
from service.worker import metrics
from service.worker.decoding.blocks import count_blocks
from service.worker.gate import Gate
from service.worker.lanes.generation_lane import GenerationLane
from service.worker.lanes.request_lane import RequestLane
from service.worker.threads import cpu_quota, decode_threads, default_threads
from service.worker.versions.explaining import Explanations
from service.worker.versions.requests import VersionRequests
from service.worker.versions.views import VersionViews

log = logging.getLogger(__name__)
RETRY_S = 0.5
KEPT_MANIFESTS = 256
"""Versions whose manifests stay in memory: more than an edit reads of a long line."""
PAUSES = 0.1
"""Share of ``JEEP_STALL_S`` for which decoding may stand still before requests are left to others.

It goes by that setting because whoever has slow steps has raised it.
"""
DRAIN_LOOK_S = 0.05
DECODING = "decoding"
"""The name of the thread that decodes."""
Body = tuple[str, Callable[[], None], int]
"""A thread's name, what it does, and the threads of its matrix products."""


def load_base(settings: Settings) -> LoadedModel:
    """Load the model that the settings name."""
    torch.set_num_threads(settings.threads or default_threads(cpu_quota()))
    log.info("loading %s", settings.model)
    base = load(settings.model, settings.device, settings.dtype, settings.models)
    count_blocks(base)
    metrics.GPU.devices = base.devices
    log.info("%s on %s in %s, %s", base.name, base.layout, base.dtype, base.weights_sha256)
    return base


def cannot_start(error: BaseException, settings: Settings) -> str:
    """The sentence about what keeps a worker from serving."""
    if is_out_of_memory(error):
        return f"{settings.model} does not fit into memory: {reason_of(error)}"
    return denial(error, settings.store) if is_denied(error) else str(error)


def writer_answers(settings: Settings, members: Members) -> bool:
    """Whether the writer takes requests that followers may take, too."""
    always = settings.writer_answers == "always"
    return always or not any(one.takes for one in members.followers())


def writer_measures(settings: Settings, members: Members) -> bool:
    """Whether it takes jobs that followers may do, too: those there are may take none."""
    always = settings.writer_answers == "always"
    return always or not any(one.jobs for one in members.followers())


@dataclass(frozen=True)
class Answering:
    """The lane that takes requests, the one that decodes, and the threads of its products.

    ``stall_s``: ``JEEP_STALL_S``.
    """

    requests: RequestLane
    generation: GenerationLane
    threads: int
    stall_s: float

    @property
    def pauses(self) -> bool:
        """Whether decoding stands still: a long step, or the first seconds of a hang.

        What comes now is answered sooner by another worker, where there is one.
        """
        return self.generation.step_s() > PAUSES * self.stall_s

    def state(self, ending: bool) -> WorkerState:
        """That of its worker; ``ending``: it has been told to stop."""
        if ending:
            return "draining"
        return "stuck" if self.generation.still_s() > self.stall_s else "ready"

    def drain(
        self, lanes: Lanes, drain_s: float, at_once: threading.Event, jobs: Sequence[str] = ()
    ) -> None:
        """Let what was taken be answered, for ``drain_s`` at most, and end then; at once where a
        lane has failed, or as soon as ``at_once`` is set.

        While lanes named in ``jobs`` still run, requests are taken: moves of head come with them.
        """
        end = time.monotonic() + drain_s
        owed = lanes.running([name for name, *_ in self.bodies])
        while lanes.failure is None and any(thread.is_alive() for thread in owed):
            if not lanes.running(jobs):
                self.requests.drain.set()
            if time.monotonic() >= end or at_once.is_set():
                break
            time.sleep(DRAIN_LOOK_S)
        if self.requests.load:
            log.warning("this worker ends with %s requests unanswered", self.requests.load)
        self.requests.stop.set()

    def join(self, lanes: Lanes) -> None:
        """Wait for the end of all lanes; where decoding hangs, end the process after the others.

        No thread can be asked to end while it hangs, and the process would wait for it.
        """
        lanes.join(but=DECODING)
        while decoding := lanes.running([DECODING]):
            if self.generation.still_s() > self.stall_s:
                log.critical("decoding hangs; this worker ends without it")
                os._exit(EXIT_AGAIN)
            decoding[0].join(DRAIN_LOOK_S)

    @property
    def bodies(self) -> list[Body]:
        """Of their threads."""
        return [
            ("requests", self.requests.run, 1),
            (DECODING, self.generation.decode, self.threads),
        ]


def answering(
    settings: Settings,
    store: Store,
    views: VersionViews,
    gate: Gate,
    asked: RequestQueue,
    versions: VersionRequests | None,
    alone: Callable[[], bool],
) -> Answering:
    """The lanes that answer what is ``asked``.

    ``versions`` does what changes the store, for the writer.  ``alone``: as in `RequestLane`.
    """
    threads = settings.decode_threads or decode_threads(views.base) or torch.get_num_threads()
    generation = GenerationLane(asked, views, gate)
    turn = gate.another_turn(settings.read_share)
    explanations = Explanations(views.base, store, views, turn.take)
    requests = RequestLane(asked, generation, versions, explanations, threads, alone)
    return Answering(requests, generation, threads, settings.stall_s)


@dataclass
class Lanes:
    """Runs lanes, each on a thread; if one ends, ``stop`` is set, so that the process ends.

    ``failure`` is why, None for a requested stop.  ``root`` is the store's folder.
    """

    stop: threading.Event
    root: Path
    failure: BaseException | None = None
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self, bodies: Sequence[Body]) -> None:
        """Start every lane."""
        self.threads = [
            threading.Thread(target=self._run, args=body[1:], name=body[0]) for body in bodies
        ]
        gc.collect()
        gc.freeze()  # existing objects stay: scanning them again would stall a decoding step
        for thread in self.threads:
            thread.start()

    def running(self, names: Sequence[str]) -> list[threading.Thread]:
        """Those of the threads with these names that have not ended."""
        return [one for one in self.threads if one.name in names and one.is_alive()]

    def join(self, but: str | None = None) -> None:
        """Wait for the end of all, or of all but one."""
        for thread in self.threads:
            if thread.name != but:
                thread.join()

    @property
    def exit_code(self) -> int:
        """That of the process, once all have ended: final where trying again does not help."""
        if self.failure is None:
            return 0
        return EXIT_CONFIG if is_denied(self.failure) else 1

    def _run(self, body: Callable[[], None], count: int) -> None:
        use_threads(count)
        try:
            body()
        except (LeaseLost, StaleFence) as error:
            log.error("another worker has the lease: %s; this worker ends", error)
            self.failure = error
        except QueueFailure as error:
            log.error("the queue cannot be used: %s; this worker ends", error)
            self.failure = error
        except Exception as error:
            if is_denied(error):
                log.error("%s; this worker ends", denial(error, self.root))
            else:
                log.exception("a lane died")
            self.failure = error
        finally:
            self.stop.set()


def heartbeat(
    client: Client,
    keys: Keys,
    base: LoadedModel,
    views: VersionViews,
    answers: Answering,
    more: Callable[[], dict[str, object]],
    instance: str | None = None,
) -> Heartbeat:
    """The heartbeat of a worker; ``more`` gives the fields in which writer and follower differ."""
    instance, started = instance or uuid4().hex, now()

    def beat() -> WorkerBeat:
        known = WorkerBeat(
            instance=instance,
            pid=os.getpid(),
            model=base.name,
            started_at=started,
            versions=views.loaded(),
            damaged=views.damaged(),
            host=socket.gethostname(),
            release=program_version(),
            device=str(base.layout),
            load=answers.requests.load,
            still_s=answers.generation.silent_s(),
        )
        return known.model_copy(update=more())

    return Heartbeat(client, keys, beat, lambda: page_of(metrics.REGISTRY))
