"""Data that an editor may ask of the edits before its own: read when it does, and no sooner.

An editor that keeps no keys of earlier facts reads none, and one that wants the newest state alone
reads no other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate
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


class _KeysOfPlace:
    """Keys (p, d_ff) of one place, those of the oldest batch first (`KeptKeys` of the library).

    ``parts``: of every tensor of keys how many facts it has, and which of them are live.
    """

    def __init__(
        self, artifacts: TensorCache, parts: Sequence[tuple[TensorRef, int, list[int]]]
    ) -> None:
        self._artifacts, self._parts = artifacts, parts
        # where each part begins, and the number of all
        sizes = (ref.shape[0] // count * len(rows) for ref, count, rows in parts)
        self._starts = list(accumulate(sizes, initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def digest(self, count: int) -> bytes:
        """A hash of the names of their tensors and of their rows there: nothing is read."""
        said = blake2b(digest_size=32)
        for start, (ref, facts, rows) in zip(self._starts, self._parts, strict=False):
            if start >= count:
                break
            said.update(bytes.fromhex(ref.sha256) + f"{facts} {rows} {count - start}".encode())
        return said.digest()

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """The keys (stop - start, d_ff) from ``start`` to ``stop``."""
        first = bisect_right(self._starts, start) - 1
        found: list[torch.Tensor] = []
        for begin, part in zip(self._starts[first:], self._parts[first:], strict=False):
            if begin >= stop:
                break
            found.append(self._read(*part)[max(0, start - begin) : stop - begin])
        return torch.cat(found)

    def _read(self, ref: TensorRef, count: int, rows: Sequence[int]) -> torch.Tensor:
        keys = self._artifacts.get(ref)
        # (contexts · m, d_ff): the facts' keys of one context after those of another
        by_context = keys.view(-1, count, keys.shape[1])
        return by_context[:, rows].reshape(-1, keys.shape[1])


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
        # oldest first: what is added comes last
        return {place: parts[::-1] for place, parts in found.items()}

    def __getitem__(self, place: Place) -> torch.Tensor:
        keys = _KeysOfPlace(self._artifacts, self._places[place])
        return keys.rows(0, len(keys))

    def kept(self, place: Place) -> _KeysOfPlace | None:
        """The keys of a place, of which only what is asked for is read; None if it has none."""
        found = self._places.get(place)
        return None if found is None else _KeysOfPlace(self._artifacts, found)

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
