"""The matrices of a version as sums: what whole blocks of updates came to, and those since.

What is read for a version on top of a long line is what is new since the last one: see
`service.store.index.sums`.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from jeep_core.models.delta import BLOCK, Update, summed
from jeep_core.models.families import is_transposed
from jeep_core.models.loading import LoadedModel, tensor_bytes
from service.contracts.schemas import Manifest, TensorRef
from service.store import CorruptTensor, MissingTensor, Store
from service.store.index.line import Line
from service.store.index.sums import EVERY, Running, Summed
from service.worker.versions import tensors

log = logging.getLogger(__name__)
PARTS = ("u", "v", "d")
AT_ONCE = 256
"""Versions whose updates are remembered before whole blocks of them are summed."""
AGAIN = 2
"""How often a damaged sum is made again for the same matrix: a disk may damage all it is given."""
Read = Callable[[TensorRef], torch.Tensor]


@dataclass(frozen=True)
class Sum:
    """A matrix as base plus updates: ``start`` is the float64 sum that ``updates`` come after.

    None: they come after the base's matrix.  ``start`` has the shape of the matrix.
    """

    start: torch.Tensor | None
    updates: list[Update]


class LineSums:
    """The sums of all matrices that a line has changed; ``read`` gives the tensors of updates.

    ``rebuilding``: its last version is not edited on, but made again.

    Raises:
        CorruptTensor, CorruptFile: an update, or a version that had to be read, is damaged.
    """

    def __init__(
        self,
        base: LoadedModel,
        store: Store,
        line: Sequence[Manifest],
        read: Read | None = None,
        *,
        rebuilding: bool = False,
    ) -> None:
        self._base, self._store, self._line = base, store, line
        self._rebuilding = rebuilding
        self._read = read or (lambda ref: tensors.get(store, ref))
        self._running = self._current()

    @property
    def names(self) -> list[str]:
        """The changed matrices."""
        return list(self._running.matrices)

    def of(self, name: str) -> Sum | None:
        """The sum of one matrix, None if no update has changed it.

        Raises:
            CorruptTensor, MissingTensor: what is made again is damaged again.
            OSError: it cannot be read now.
        """
        again = 0
        while (found := self._running.matrices.get(name)) is not None:
            try:
                start = None if found.total is None else self._total(found.total)
            except (CorruptTensor, MissingTensor, OSError) as error:
                # a part of a disk that cannot be read any more is as good as damaged
                passing = isinstance(error, OSError) and error.errno != errno.EIO
                if again == AGAIN or passing:
                    raise
                again += 1
                log.warning("%s: it is made again", error)
                assert found.total is not None
                self._store.sums.drop(found.total)
                self._running = self._current()
                continue
            return Sum(start, list(self._updates(found.since)))
        return None

    def is_long(self, name: str) -> bool:
        """Whether a matrix has had more updates than one block."""
        found = self._running.matrices.get(name)
        return found is not None and (found.total is not None or len(found.since) > BLOCK)

    def every_update(self, name: str) -> Iterator[Update]:
        """All updates of a matrix, oldest first, for which the whole line is read."""
        for manifest in self._line:
            if parts := _parts_of(manifest).get(name):
                yield from self._updates([parts])

    def _current(self) -> Running:
        """The state after the line's last version, from the newest one that is known."""
        sums, line, known = self._store.sums, self._line, None
        # where a line must be read from far below, only ids are remembered on the way back
        few = isinstance(line, Line)
        newer: list[Manifest | str] = []
        for manifest in reversed(line):
            known = sums.find(manifest)
            if known is not None:
                break
            newer.append(manifest.id if few and len(newer) >= AT_ONCE else manifest)
        if known is not None and not newer:
            return known
        found = known or Running(version="", weights_sha256="")
        found = found.model_copy(update={"rebuilt": self._rebuilding})
        for number, one in enumerate(reversed(newer), start=1):
            if isinstance(one, str):
                assert isinstance(line, Line)
                one = line.read(one)
            found = _extended(found, one)
            if number % AT_ONCE == 0:
                found = self._kept(found)
        if found.age >= EVERY or any(len(m.since) >= BLOCK for m in found.matrices.values()):
            found = self._kept(found)
        sums.remember(found)
        return found

    def _kept(self, running: Running) -> Running:
        """A state with whole blocks summed, written; as it is, where that cannot be done."""
        if self._store.sums.read_only:
            return running
        try:
            with self._store.sums.adding(running):
                matrices = {name: self._folded(name, one) for name, one in running.matrices.items()}
                done = running.model_copy(update={"matrices": matrices, "age": 0})
                self._store.sums.save(done)
        except (OSError, CorruptTensor) as error:
            # a damaged sum is dropped by `of`; of a damaged update whoever needs it is told
            log.warning("the running sums of %s are not kept: %s", running.version, error)
            return running
        return done

    def _folded(self, name: str, one: Summed) -> Summed:
        whole = len(one.since) // BLOCK * BLOCK
        if not whole:
            return one
        base, transposed = matrix_of(self._base, name)
        start = None if one.total is None else self._total(one.total)
        total = summed(base, self._updates(one.since[:whole]), transposed, start)
        data = tensor_bytes(total.contiguous())
        ref = self._store.sums.put(name, list(base.shape), data)
        return Summed(total=ref, since=one.since[whole:])

    def _total(self, ref: TensorRef) -> torch.Tensor:
        return tensors.of_bytes(self._store.sums.total(ref), ref)

    def _updates(self, since: Sequence[Sequence[TensorRef]]) -> Iterator[Update]:
        for parts in since:
            yield Update.from_parts({ref.name.partition(".")[0]: self._read(ref) for ref in parts})


def sums_of(base: LoadedModel, store: Store, version: str, *, rebuilding: bool = False) -> LineSums:
    """The sums of a version of the store."""
    return LineSums(base, store, Line(store, version), rebuilding=rebuilding)


def matrix_of(base: LoadedModel, name: str) -> tuple[torch.Tensor, bool]:
    """A parameter of the base model, of any shape, and whether it is stored as (in, out)."""
    owner = base.model.get_submodule(name.rpartition(".")[0])
    return base.model.get_parameter(name), is_transposed(owner)


def _extended(running: Running, manifest: Manifest) -> Running:
    """The state after one more version."""
    matrices = dict(running.matrices)
    for name, parts in _parts_of(manifest).items():
        before = matrices.get(name, Summed())
        matrices[name] = Summed(total=before.total, since=[*before.since, parts])
    return Running(
        version=manifest.id,
        weights_sha256=manifest.weights_sha256,
        matrices=matrices,
        age=running.age + 1,
        rebuilt=running.rebuilt,
    )


def _parts_of(manifest: Manifest) -> dict[str, list[TensorRef]]:
    """The tensors of the update of every matrix that a version changes, by the matrix's name."""
    found: dict[str, list[TensorRef]] = {}
    for ref in manifest.artifacts:
        part, _, name = ref.name.partition(".")
        if part in PARTS:
            found.setdefault(name, []).append(ref)
    return found
