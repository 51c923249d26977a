"""Versions in memory: views of the model that generation is answered from, and edited ones."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from concurrent.futures import Future

import torch

from jeep_core.models.delta import Update
from jeep_core.models.loading import LoadedModel, combined_sha256
from jeep_core.models.views import ModelView
from jeep_core.spec.facts import ChatForm, Fact
from service.contracts.schemas import FactRecord, Manifest
from service.store import CorruptFile, CorruptTensor, Store, UnknownVersion
from service.worker.versions import rebuild, tensors
from service.worker.versions.earlier_edits import KeysOfLine, LiveKeys, States
from service.worker.versions.sums import LineSums


class VersionViews:
    """A few views, the least recently used one evicted first.  Safe to use from threads.

    No lock is held while a version is read: loading one does not delay threads that need another.
    """

    def __init__(self, base: LoadedModel, store: Store, capacity: int = 4) -> None:
        self.base, self._store, self._capacity = base, store, capacity
        self._artifacts, self._keys = tensors.TensorCache(store), KeysOfLine()
        self._views: OrderedDict[str, ModelView] = OrderedDict()
        self._loading: dict[str, Future[ModelView]] = {}
        self._damaged: set[str] = set()
        self._lock = threading.Lock()

    def get(self, version: str) -> ModelView:
        """The view of a version, loaded and verified if it is not in memory.

        Raises:
            UnknownVersion, CorruptTensor
        """
        with self._lock:
            view = self._found(version)
            if view is not None:
                return view
            loading = self._loading.get(version)
            mine = loading is None
            if loading is None:
                loading = self._loading[version] = Future()
        if mine:
            self._load_into(version, loading)
        return loading.result()

    def ready(self, version: str) -> ModelView | None:
        """The view of a version if it is in memory."""
        with self._lock:
            return self._found(version)

    def put(self, version: str, view: ModelView) -> None:
        """Serve a version from a newly computed view; the caller must not use it afterwards.

        Its history is dropped: a served version is loaded again before it is edited.
        """
        view.history.clear()
        view.starts.clear()
        with self._lock:
            self._insert(version, view)

    def editing(self, line: Sequence[Manifest]) -> ModelView:
        """A separate view for editing on top of a line of versions, with the sums of that line.

        The last ones may be drafts.  Of a `Line` only what is new is read.  For one thread, as
        ``live_keys``.
        """
        tip = line[-1]
        try:
            view = self.get(tip.id)
        except UnknownVersion:
            view = self._view_of(tip)
        sums = LineSums(self.base, self._store, line, self._artifacts.get)
        found = {name: sums.of(name) for name in sums.names}
        whole = {name: one for name, one in found.items() if one is not None}
        history = {name: one.updates for name, one in whole.items()}
        starts = {name: one.start for name, one in whole.items() if one.start is not None}
        return ModelView(self.base, view.replaced, history, starts)

    def live_keys(self, line: Sequence[Manifest], edited: Sequence[Fact]) -> LiveKeys:
        """Keys (p, d_ff) of the facts that a new batch must preserve; see `LiveKeys`."""
        return LiveKeys(self._keys, self._artifacts, line, edited)

    def editor_states(self, line: Sequence[Manifest], editor: str) -> States:
        """Tensors by name that an editor left in a line of versions for its next edit, in order."""
        return States(self._artifacts, line, editor)

    def loaded(self) -> list[str]:
        """Versions in memory, the most recently used one last."""
        with self._lock:
            return list(self._views)

    def damaged(self) -> list[str]:
        """Versions that could not be loaded when they were last wanted."""
        with self._lock:
            return sorted(self._damaged)

    def in_use(self) -> set[str]:
        """Versions in memory or being loaded."""
        with self._lock:
            return {*self._views, *self._loading}

    def _found(self, version: str) -> ModelView | None:
        if version in self._views:
            self._views.move_to_end(version)
        return self._views.get(version)

    def _insert(self, version: str, view: ModelView) -> None:
        self._views[version] = view
        self._views.move_to_end(version)
        while len(self._views) > self._capacity:
            self._views.popitem(last=False)

    def _load_into(self, version: str, loading: Future[ModelView]) -> None:
        """Load a version for all threads that wait for it."""
        try:
            view = self._load(version)
        except BaseException as error:
            with self._lock:
                if isinstance(error, CorruptFile | CorruptTensor):
                    self._damaged.add(version)
                del self._loading[version]
            loading.set_exception(error)
        else:
            with self._lock:
                self._insert(version, view)
                self._damaged.discard(version)
                del self._loading[version]
            loading.set_result(view)

    def _load(self, version: str) -> ModelView:
        return self._view_of(self._store.versions.read(version))

    def _view_of(self, manifest: Manifest) -> ModelView:
        changed = {ref.name: ref.sha256 for ref in manifest.tensors}
        whole = combined_sha256({**self.base.tensor_hashes, **changed})
        if whole != manifest.weights_sha256:
            raise CorruptTensor(f"{manifest.id}: its tensors do not add up to its weights' hash")
        return ModelView(self.base, rebuild.load(self.base, self._store, manifest))


def updates_of(artifacts: tensors.TensorCache, manifest: Manifest) -> dict[str, Update]:
    """The updates of one edit by parameter name, from its artifacts ``u.…``, ``v.…``, ``d.…``."""
    parts: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for ref in manifest.artifacts:
        part, _, name = ref.name.partition(".")
        if part in ("u", "v", "d"):
            parts[name][part] = artifacts.get(ref)
    return {name: Update.from_parts(found) for name, found in parts.items()}


def fact_of(record: FactRecord) -> Fact:
    """A stored fact as the library's class."""
    return Fact(
        record.subject,
        record.prompt,
        record.target_new,
        record.target_true,
        tuple(record.paraphrase_prompts),
        tuple(record.neighborhood_prompts),
        record.join,
        tuple((message.role, message.content) for message in record.messages or ()) or None,
        None if record.chat is None else ChatForm(**record.chat.model_dump()),
    )
