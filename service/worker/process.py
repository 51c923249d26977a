"""The worker process from start to stop."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from uuid import uuid4

import torch
from transformers.utils import logging as transformers_logging

from jeep_core.editing import relations
from jeep_core.editors import BrokenEditor, available, hparams_class
from jeep_core.errors import JeepError, reason_of
from jeep_core.evaluation.harness.installed import installed_version
from jeep_core.evaluation.perplexity import text_path
from jeep_core.executors.work import Executor
from jeep_core.exports.checkpoint import checkpoint_bytes
from jeep_core.models.loading import DTYPES, LoadedModel, load
from jeep_core.models.special_tokens import special_tokens
from jeep_core.moments.source import import_command, origin_of
from jeep_core.spec.hparams import presets_for, validate_hparams
from service.contracts.jobs import Lane, now
from service.contracts.schemas import WorkerInfo
from service.ops import logs, tracing
from service.ops.metrics_page import page_of
from service.queue import (
    Client,
    Heartbeat,
    JobQueue,
    Keys,
    Lease,
    LeaseHeld,
    LeaseLost,
    QueueFailure,
    RequestQueue,
    WorkerBeat,
    connect,
    end_patience,
)
from service.settings import EXIT_CONFIG, Settings, SettingsError
from service.store import CorruptFile, StaleFence, Store, StoreBusy, StoreError, is_disk_full
from service.store.base.files import CHAT_TEMPLATE
from service.store.base.moments import source_of
from service.store.maintenance.room import Room
from service.store.maintenance.sweep import sweep_own
from service.worker import metrics
from service.worker.executing import executor_of
from service.worker.gate import Gate
from service.worker.input_files import check_inputs, check_moments, own_relations
from service.worker.kinds.edits import EditRunner
from service.worker.lanes.edit_lane import EditLane
from service.worker.lanes.generation_lane import GenerationLane
from service.worker.lanes.read_lane import ReadLane
from service.worker.lanes.request_lane import RequestLane
from service.worker.moments import SharedMoments
from service.worker.targets.pusher import Pusher
from service.worker.targets.workshop import Workshop
from service.worker.threads import cpu_quota, decode_threads, default_threads, use_threads
from service.worker.versions.explaining import Explanations
from service.worker.versions.requests import VersionRequests
from service.worker.versions.retention import Keeper
from service.worker.versions.views import VersionViews

log = logging.getLogger(__name__)
RETRY_S = 0.5
KEPT_MANIFESTS = 256
"""Versions whose manifests stay in memory: more than an edit reads of a long line."""
SWITCH_S = 0.0005
"""How long one thread may keep the interpreter from the others; Python's 5 ms are a whole step."""


class Worker:
    """The state of the process.  ``run`` blocks until ``stop`` or a fatal loss."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stop = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> int:
        """Work until stopped; the exit code."""
        with ExitStack() as stack:
            try:
                store = Store.open(
                    self.settings.store, idempotency_hours=self.settings.idempotency_hours
                )
                store.versions.keeps = KEPT_MANIFESTS
                if not self._lock(store, stack):
                    return 0
                check_inputs(self.settings)
                base = self._load()
                prepare(store, base, self.settings)
                # one for each lane: an edit does not wait for workers of a job that reads
                executors = [executor_of(self.settings, stack) for _ in range(2)]
            except (StoreError, JeepError, SettingsError, OSError) as error:
                log.error("%s", error)
                return 1 if is_disk_full(error) else EXIT_CONFIG
            except (MemoryError, torch.OutOfMemoryError) as error:
                log.error("%s does not fit into memory: %s", self.settings.model, reason_of(error))
                return 1
            try:
                return self._serve(store, base, executors, stack)
            except (QueueFailure, StaleFence) as error:
                log.error("the queue cannot be used: %s", error)
                return 1
            except CorruptFile as error:
                log.error("%s", error)
                return EXIT_CONFIG

    def _lock(self, store: Store, stack: ExitStack) -> bool:
        """Wait until this is the store's only worker; False if stopped before."""
        waited = False
        while not self.stop.is_set():
            try:
                stack.enter_context(store.worker_lock())
                return True
            except StoreBusy as error:
                if not waited:
                    log.warning("%s; waiting for it to end", error)
                waited = True
                self.stop.wait(RETRY_S)
        return False

    def _load(self) -> LoadedModel:
        settings = self.settings
        torch.set_num_threads(settings.threads or default_threads(cpu_quota()))
        log.info("loading %s", settings.model)
        base = load(settings.model, settings.device, settings.dtype, settings.models)
        metrics.GPU.device = base.device
        log.info("%s on %s in %s, %s", base.name, base.device, base.dtype, base.weights_sha256)
        return base

    def _serve(
        self, store: Store, base: LoadedModel, executors: Sequence[Executor], stack: ExitStack
    ) -> int:
        if self.settings.redis_url is None:
            log.error("JEEP_REDIS_URL is not set: the worker needs a queue")
            return EXIT_CONFIG
        client = connect(self.settings.redis_url)
        stack.callback(client.close)
        keys = Keys(store.id)
        lease = Lease(client, keys, self.settings)
        try:
            lease.acquire(store.head.read().fence, stop=self.stop)
        except LeaseHeld:
            return 0
        stack.callback(lease.release)
        store.head.claim(lease.fence)
        views = VersionViews(base, store, self.settings.versions_in_memory)
        load_head(store, views)
        queue = JobQueue(client, keys)
        queue.requeue_missing(store.journal.unfinished())
        gate = Gate(self.settings.edit_share, read_share=self.settings.read_share)
        moments = SharedMoments(base, store, self.settings)
        for_edits, for_reads = executors
        runner = EditRunner(base, store, views, self.settings, gate, moments, for_edits)
        keeper = self._keeper(store, base, views, lease, gate)
        writing = partial(keeper.writing, gate)
        edits = EditLane(queue, store, lease, views, runner, self.settings, writing, keeper.due)
        waiting = JobQueue(client, keys, Lane.READ)
        reads = ReadLane(
            waiting, store, lease, views, self.settings, gate, moments=moments, executor=for_reads
        )
        asked = RequestQueue(client, keys)
        generation = GenerationLane(asked, views, gate)
        every = torch.get_num_threads()
        few = self.settings.decode_threads or decode_threads(base) or every
        turn = gate.another_turn(self.settings.read_share)
        explanations = Explanations(base, store, views, turn.take)
        versions = VersionRequests(store, lease, views)
        requests = RequestLane(asked, generation, versions, explanations, few)
        pusher = self._pusher(store, base, views, lease, gate)
        heartbeat = self._heartbeat(client, keys, base, views)
        heartbeat.start()
        stack.callback(heartbeat.stop)
        bodies = (
            ("edits", edits.run, every),
            ("reads", reads.run, every),
            ("requests", requests.run, 1),
            ("decoding", generation.decode, few),
            ("retention", keeper.run, few),
            ("targets", pusher.run, 1),
        )
        lanes = [threading.Thread(target=self._lane, args=b[1:], name=b[0]) for b in bodies]
        gc.collect()
        gc.freeze()  # existing objects stay: scanning them again would stall a decoding step
        for thread in lanes:
            thread.start()
        log.info("ready, head is %s", store.head.read().version)
        self.stop.wait()
        if isinstance(self._failure, QueueFailure):
            end_patience(client)
        for one in (edits, reads, requests, keeper, pusher):
            one.stop.set()
        for thread in lanes:
            thread.join()
        return 0 if self._failure is None else 1

    def _keeper(
        self, store: Store, base: LoadedModel, views: VersionViews, lease: Lease, gate: Gate
    ) -> Keeper:
        return Keeper(
            base,
            store,
            self.settings.keep_versions,
            busy=views.in_use,
            lost=lambda: lease.lost.is_set() or store.head.is_replaced(),
            give_way=gate.another_turn(self.settings.read_share).take,
            look=lambda: load_mended_head(store, views),
            exports=self.settings.keep_exports,
        )

    def _pusher(
        self, store: Store, base: LoadedModel, views: VersionViews, lease: Lease, gate: Gate
    ) -> Pusher:
        settings = self.settings
        room = Room(store.root, settings.max_store_mb, settings.min_free_mb)
        lost = lambda: lease.lost.is_set() or store.head.is_replaced()  # noqa: E731
        turn = lambda: gate.another_turn(settings.read_share).take  # noqa: E731
        shop = Workshop(base, store, views, room, turn, settings.llama_cpp)
        return Pusher(store, settings, shop, lost)

    def _lane(self, body: Callable[[], None], count: int) -> None:
        """Run a lane with its threads; if it ends, the process ends and is started again."""
        use_threads(count)
        try:
            body()
        except (LeaseLost, StaleFence) as error:
            log.error("another worker has the lease: %s; this worker ends", error)
            self._failure = error
        except QueueFailure as error:
            log.error("the queue cannot be used: %s; this worker ends", error)
            self._failure = error
        except Exception as error:
            log.exception("a lane died")
            self._failure = error
        finally:
            self.stop.set()

    def _heartbeat(
        self, client: Client, keys: Keys, base: LoadedModel, views: VersionViews
    ) -> Heartbeat:
        instance, started = uuid4().hex, now()

        def beat() -> WorkerBeat:
            return WorkerBeat(
                instance=instance,
                pid=os.getpid(),
                model=base.name,
                started_at=started,
                versions=views.loaded(),
                damaged=views.damaged(),
            )

        return Heartbeat(client, keys, beat, lambda: page_of(metrics.REGISTRY))


def prepare(store: Store, base: LoadedModel, settings: Settings) -> None:
    """Bind the store to the model, clean it up and publish the model data for the api.

    Raises:
        StoreError: it belongs to another model, or a manifest or head cannot be read.
        InvalidHParams: one of the user's presets for this model does not fit it.
        SettingsError: relations or second moments that the settings name cannot be used.
    """
    store.bind_model(base.model_hash)
    check_moments(settings, store, base)
    store.create_base(base.weights_sha256)
    store.head.repair()
    sweep_own(store)  # the rest is looked for while the worker serves: retention's first round
    publish(store, base, settings)


def load_head(store: Store, views: VersionViews) -> None:
    """Load head before the first request.  A damaged head is served as an error per request,
    so that a rollback to another version remains possible.
    """
    try:
        views.get(store.head.read().version)
    except StoreError as error:
        log.error("head cannot be served, roll back to another version: %s", error)


def load_mended_head(store: Store, views: VersionViews) -> None:
    """Try a damaged head again: it may have been repaired, and clients that wait for the worker
    to be ready send no request that would load it.
    """
    if store.head.read().version in views.damaged():
        load_head(store, views)


def say_moments(store: Store, info: WorkerInfo) -> None:
    """Log where second moments come from, and which editors cannot be used for want of them."""
    needing = ", ".join(name for name, found in available()[0].items() if found.needs_moments)
    log.info("second moments: %s", info.moments_from)
    if info.moments is not None and not source_of(store.base, info).imported_files():
        log.warning(
            "JEEP_MOMENTS: nothing is imported as %s for this model: edits by %s are refused "
            "until %s has been run",
            info.moments,
            needing,
            import_command(info.moments),
        )


def publish(store: Store, base: LoadedModel, settings: Settings) -> None:
    """Publish the data by which the api validates requests without a model.

    Raises:
        InvalidHParams: one of the user's presets for this model does not fit it.
    """
    presets = presets_for(base.name, settings.presets, base.shape)
    for problem in available()[1]:
        log.error("%s", problem)
    for preset in presets:
        if settings.presets and (settings.presets / f"{preset.name}.yaml").exists():
            try:
                cls, where = hparams_class(preset.editor), f"preset {preset.name}"
            except BrokenEditor:  # reported above
                continue
            validate_hparams(cls, preset.hparams, base.n_layers, where)
    names: dict[str, list[str]] = {}
    for preset in presets:
        names.setdefault(preset.editor, []).append(preset.name)
    config = base.model.config
    info = WorkerInfo(
        model=base.name,
        model_hash=base.model_hash,
        family=base.family.name,
        dtype=str(base.dtype).removeprefix("torch."),
        device=str(base.device),
        n_layers=base.n_layers,
        hidden_size=config.hidden_size,
        mlp_size=base.mlp_size,
        max_positions=base.max_positions,
        vocabulary=base.vocabulary,
        relations=relations() | own_relations(settings.relations),
        presets=names,
        preset_values={f"{p.editor}/{p.name}": p.hparams for p in presets},
        moments=settings.moments,
        moments_from=origin_of(base.name, settings.corpus, settings.moments),
        perplexity_text=text_path(base.name, settings.perplexity_text) is not None,
        special_tokens=special_tokens(base),
        lm_eval=installed_version(),
        checkpoint_bytes=0 if base.folder is None else checkpoint_bytes(base.folder),
        checkpoint_bytes_as=_bytes_as(base.folder),
        started_at=now(),
    )
    say_moments(store, info)
    files = {
        "tokenizer.json": base.tokenizer.to_str().encode(),
        "config.json": config.to_json_string().encode(),
    }
    if base.chat is not None:
        files[CHAT_TEMPLATE] = base.chat.to_json().encode()
    try:
        store.base.publish(info, files)
    except OSError as error:
        if not is_disk_full(error) or store.base.info() is None:
            raise
        log.error("the api goes on with what the last worker has published: %s", error)


def _bytes_as(folder: Path | None) -> dict[str, int]:
    """The size of a model's files in each type, by its name."""
    return {} if folder is None else {dtype: checkpoint_bytes(folder, dtype) for dtype in DTYPES}


def _quiet_transformers() -> None:
    """Route its log lines through this program's log, without progress bars."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()


def main(settings: Settings) -> int:
    """Run a worker until SIGTERM or SIGINT."""
    logs.configure(settings, "worker")
    _quiet_transformers()
    tracing.configure("worker")
    sys.setswitchinterval(SWITCH_S)
    worker = Worker(settings)

    def stop(number: int, frame: FrameType | None) -> None:
        worker.stop.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return worker.run()
