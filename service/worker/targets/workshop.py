"""The worker's part in a push: artefacts of versions, and our own answers to compare with."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from jeep_core.exports.adapter import CONFIG, changes_of, write_adapter
from jeep_core.exports.bases import base_name
from jeep_core.exports.checkpoint import checkpoint_bytes, folder_of, write_checkpoint
from jeep_core.exports.folders import DamagedExport, FileHash, verify, write_record
from jeep_core.exports.gguf.tools import LlamaCpp
from jeep_core.exports.gguf.types import EditedType, GgufType
from jeep_core.exports.gguf.version import bytes_needed, type_of, write_version
from jeep_core.models.delta import Update
from jeep_core.models.families import is_transposed
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor, nothing
from jeep_core.spec.facts import fill
from jeep_core.storage.looking import present
from service.contracts.schemas import Manifest
from service.ops.parent_death import death_signal
from service.store import Store
from service.store.maintenance.room import Room
from service.store.versions import BASE
from service.worker.targets.proof import CONSIDERED, NEUTRAL, Question, next_token, questions
from service.worker.versions.tensors import TensorCache
from service.worker.versions.views import VersionViews, updates_of

log = logging.getLogger(__name__)

PEFT, MERGED, GGUF = "peft", "merged", "gguf"
GGUF_FILE = "model.gguf"
_GGUF_TYPES = {f"{kind.lower()}.": kind for kind in GgufType}


class Workshop:
    """Writes artefacts and chooses questions, for the threads of all targets.

    ``turn`` gives a thread the function that makes way for decoding; ``check``, which its owner may
    set, raises to end the work.  ``llama_cpp``: the folder of llama.cpp's programs.
    """

    def __init__(
        self,
        base: LoadedModel,
        store: Store,
        views: VersionViews,
        room: Room,
        turn: Callable[[], Callable[[], None]],
        llama_cpp: Path | None = None,
    ) -> None:
        self._base, self._store, self._views, self._room = base, store, views, room
        self._turn, self._llama_cpp = turn, llama_cpp
        self.check: Callable[[], None] = nothing
        self._writing, self._lock = threading.Lock(), threading.Lock()
        self._used: list[str] = []

    @contextmanager
    def artefact(self, manifest: Manifest, format: str) -> Iterator[tuple[Path, int]]:
        """The path of a version's artefact, written if need be, and the rank of an adapter.

        It is not swept during the block.

        Raises:
            NotExportable, RankTooHigh: the version cannot be written in this format.
            MissingProgram: a program of llama.cpp is needed and was not found.
            StoreFull, DiskFull, OSError: there is no room.
            CorruptFile, CorruptTensor: the version is damaged.
        """
        name = self._store.artefacts.name(manifest, format)
        with self._lock:
            self._used.append(name)
        try:
            with self._writing:  # one at a time: two targets mostly want the same one
                self._drop_damaged(name)
                path = self._store.artefacts.put(name, lambda to: self._write(to, manifest, format))
            yield path, _rank(path)
        finally:
            with self._lock:
                self._used.remove(name)

    def sweep(self, held: Callable[[], set[str]]) -> None:
        """Remove the artefacts that are neither ``held`` nor being used."""
        with self._writing, self._lock:
            self._store.artefacts.sweep({*held(), *self._used})

    def questions(self, manifest: Manifest, before: str | None) -> list[Question]:
        """Questions that tell a version from ``before``, the version that was there, and from the
        base model.
        """
        rest, view = self._rest(), self._view(manifest.id)
        others = [self._view(BASE)] if manifest.id != BASE else []
        known = before if before and self._store.versions.is_readable(before) else None
        if known and known not in (manifest.id, BASE):
            others.append(self._view(known))
        prompts = [*self._prompts(manifest.id), *(self._prompts(known) if known else ())]
        return questions(view, others, [*prompts, *NEUTRAL], rest)

    def neutral(self) -> list[Question]:
        """Questions that tell the base model from other models."""
        view, rest, found = self._view(BASE), self._rest(), []
        for text in NEUTRAL:
            rest()
            ids = tuple(self._base.tokenizer.encode(text).ids)
            own = next_token(view, ids)
            answer = int(own.argmax())
            found.append(Question(ids, answer, float(own[answer])))
        return found

    def _rest(self) -> Callable[[], None]:
        turn = self._turn()

        def rest() -> None:
            self.check()
            turn()

        return rest

    def _view(self, version: str) -> ModelView:
        """A view of one's own: those that answer requests belong to their threads."""
        if version == BASE:
            return ModelView(self._base)
        return ModelView(self._base, self._views.get(version).replaced)

    def _prompts(self, version: str) -> Sequence[str]:
        """Prompts of the facts that a version holds, those of its newest edits first."""
        found: list[str] = []
        for manifest in self._store.versions.back(version):
            found += [fill(fact.prompt, fact.subject) for fact in manifest.facts]
            if len(found) >= CONSIDERED:
                break
        return found[: CONSIDERED // 2]

    # ------------------------------------------------------------ artefacts

    def _write(self, folder: Path, manifest: Manifest, format: str) -> None:
        self.check()
        self._room.check()
        rest = self._rest()
        monitor = Monitor(check=rest, give_way=rest)
        known: tuple[FileHash, ...] = ()
        if format == PEFT:
            changes = changes_of(self._base, self._updates(manifest))
            name = base_name(self._base.name, self._base.folder).text
            write_adapter(folder, changes, name, monitor=monitor)
        elif format == MERGED:
            self._room.check(checkpoint_bytes(folder_of(self._base)))
            view = self._view(manifest.id)
            known = write_checkpoint(folder, self._base, view.replaced, monitor=monitor)
        else:
            self._write_gguf(folder, manifest, format, monitor)
        record = {"version": manifest.id, "weights_sha256": manifest.weights_sha256}
        write_record(folder, {**record, "format": format}, known)

    def _write_gguf(self, folder: Path, manifest: Manifest, format: str, monitor: Monitor) -> None:
        """Write a GGUF file; ``format`` is ``gguf``, or its type in small letters before that.

        The file comes into its folder when it is whole: a server lists what it finds there.
        """
        base, replaced = self._base, self._view(manifest.id).replaced
        name, _, _ = format.rpartition(GGUF)
        kind = type_of(base, _GGUF_TYPES[name] if name else None)
        self._room.check(bytes_needed(base, replaced, kind))
        tools = LlamaCpp.find(self._llama_cpp, death_signal(signal.SIGKILL))
        with TemporaryDirectory(dir=folder) as scratch:
            whole = Path(scratch) / "whole.gguf"
            write_version(
                whole, base, replaced, kind, EditedType.SAME, tools, Path(scratch), monitor
            )
            whole.rename(folder / GGUF_FILE)

    def _drop_damaged(self, name: str) -> None:
        """Remove an artefact whose files are not those that were written; it is written again."""
        path = self._store.artefacts.path(name)
        if not present(path):
            return
        try:
            verify(path)
        except DamagedExport as error:
            log.error("%s; it is written again", error)
            self._store.artefacts.drop(name)

    def _updates(self, manifest: Manifest) -> dict[str, list[Update]]:
        """All updates of a version by parameter; of the base model one that changes nothing."""
        if manifest.id == BASE:
            return self._no_change()
        artifacts, found = TensorCache(self._store), dict[str, list[Update]]()
        for one in self._store.versions.lineage(manifest.id):
            for name, update in updates_of(artifacts, one).items():
                found.setdefault(name, []).append(update)
        return found

    def _no_change(self) -> dict[str, list[Update]]:
        name = self._base.family.weight_name(0)
        shape = self._base.model.get_parameter(name).shape
        owner = self._base.model.get_submodule(name.removesuffix(".weight"))
        out_size, in_size = reversed(shape) if is_transposed(owner) else shape
        return {name: [Update(left=torch.zeros(out_size, 1), right=torch.zeros(in_size, 1))]}


def _rank(path: Path) -> int:
    """The rank of an adapter; 0 for another artefact."""
    config = path / CONFIG
    return int(json.loads(config.read_text())["r"]) if present(config) else 0
