"""Data that an editor may ask of the edits before its own: read when it does, and no sooner.

An editor that keeps no keys of earlier facts reads none, and one that wants the newest state alone
reads no other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import overload

import torch

from jeep_core.spec.facts import Fact, question_key
from service.contracts.schemas import Manifest, TensorRef
from service.worker.versions.tensors import TensorCache

STATE = "state."
"""What the names of the tensors begin with that an editor keeps in a version for its next edit."""
Place = tuple[str, int]


@dataclass(frozen=True)
class _Batch:
    """A version as far as keys go: its facts' questions, and its keys by place.

    Kept for every version of a line, so it is small: a digest of each question, and the hash, type
    and shape of a tensor.
    """

    version: str
    questions: tuple[bytes, ...]
    keys: tuple[tuple[Place, bytes, str, tuple[int, ...]], ...]


class KeysOfLine:
    """The batches of the last line that was asked for, of which only new ones are read.

    For one thread.
    """

    def __init__(self) -> None:
        self._batches: list[_Batch] = []
        self._at: dict[str, int] = {}

    def of(self, line: Sequence[Manifest]) -> list[_Batch]:
        """The batches of a line, oldest first."""
        newer: list[_Batch] = []
        known = -1
        for manifest in reversed(line):
            known = self._at.get(manifest.id, -1)
            if known >= 0:
                break
            newer.append(_batch_of(manifest))
        for gone in self._batches[known + 1 :]:
            del self._at[gone.version]
        del self._batches[known + 1 :]
        for batch in reversed(newer):
            self._at[batch.version] = len(self._batches)
            self._batches.append(batch)
        return self._batches


class LiveKeys(Mapping[Place, torch.Tensor]):
    """Keys (p, d_ff) of the facts that a new batch must preserve, by region and layer.

    A fact that a later batch (or the new one, ``edited``) edits again has no key here.
    """

    def __init__(
        self,
        batches: KeysOfLine,
        artifacts: TensorCache,
        line: Sequence[Manifest],
        edited: Sequence[Fact],
    ) -> None:
        self._batches, self._artifacts = batches, artifacts
        self._line, self._edited = line, edited

    @cached_property
    def _places(self) -> dict[Place, list[tuple[TensorRef, int, list[int]]]]:
        """Of every tensor of keys how many facts it has, and which of them are live."""
        taken = {_digest(fact.key) for fact in self._edited}
        found: dict[Place, list[tuple[TensorRef, int, list[int]]]] = defaultdict(list)
        for batch in reversed(self._batches.of(self._line)):
            rows = [i for i, question in enumerate(batch.questions) if question not in taken]
            taken.update(batch.questions)
            if rows:
                for place, sha256, dtype, shape in batch.keys:
                    name = f"keys.{place[0]}.{place[1]}"
                    ref = TensorRef(name=name, dtype=dtype, shape=list(shape), sha256=sha256.hex())
                    found[place].append((ref, len(batch.questions), rows))
        return dict(found)

    def __getitem__(self, place: Place) -> torch.Tensor:
        parts: list[torch.Tensor] = []
        for ref, count, rows in self._places[place]:
            keys = self._artifacts.get(ref)
            # (contexts · m, d_ff): the facts' keys of one context after those of another
            by_context = keys.view(-1, count, keys.shape[1])
            parts += list(by_context[:, rows])
        return torch.cat(parts)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class States(Sequence[Mapping[str, torch.Tensor]]):
    """Tensors by name that an editor left in a line of versions for its next edit, in order.

    ``reversed`` reads from the newest on, as far as it is asked; everything else reads all.
    """

    def __init__(self, artifacts: TensorCache, line: Sequence[Manifest], editor: str) -> None:
        self._artifacts, self._editor = artifacts, editor
        self._found: list[Mapping[str, torch.Tensor]] = []
        self._rest = iter(self._newest(line))

    def _newest(self, line: Sequence[Manifest]) -> Iterator[Mapping[str, torch.Tensor]]:
        for manifest in reversed(line):
            if manifest.editor != self._editor:
                continue
            kept = [ref for ref in manifest.artifacts if ref.name.startswith(STATE)]
            if kept:
                yield {ref.name.removeprefix(STATE): self._artifacts.get(ref) for ref in kept}

    def __reversed__(self) -> Iterator[Mapping[str, torch.Tensor]]:
        place = 0
        while True:
            if place == len(self._found):
                more = next(self._rest, None)
                if more is None:
                    return
                self._found.append(more)
            yield self._found[place]
            place += 1

    def __len__(self) -> int:
        return sum(1 for _ in reversed(self))

    def __iter__(self) -> Iterator[Mapping[str, torch.Tensor]]:
        return iter(list(reversed(self))[::-1])

    @overload
    def __getitem__(self, index: int) -> Mapping[str, torch.Tensor]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, torch.Tensor]]: ...

    def __getitem__(
        self, index: int | slice
    ) -> Mapping[str, torch.Tensor] | Sequence[Mapping[str, torch.Tensor]]:
        if index == -1 and (newest := next(reversed(self), None)) is not None:
            return newest
        return list(self)[index]


def _batch_of(manifest: Manifest) -> _Batch:
    keys = []
    for ref in manifest.artifacts:
        kind, _, place = ref.name.partition(".")
        if kind == "keys":
            region, _, layer = place.rpartition(".")
            where = (region, int(layer))
            keys.append((where, bytes.fromhex(ref.sha256), ref.dtype, tuple(ref.shape)))
    questions = (_digest(question_key(one.subject, one.prompt)) for one in manifest.facts)
    return _Batch(manifest.id, tuple(questions), tuple(keys))


def _digest(key: tuple[str, str]) -> bytes:
    return blake2b("\0".join(key).encode(), digest_size=16).digest()
