"""A version as a whole model folder, with the files, names and shards of the base model's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from jeep_core.errors import NotExportable
from jeep_core.exports.folders import FileHash, HashingFile
from jeep_core.exports.tensor_files import (
    FLOATS,
    Entry,
    bytes_after,
    numbers,
    raw,
    read_layout,
    rewrite,
)
from jeep_core.models.checkpoints.files import CONFIG, INDEX, read_headers
from jeep_core.models.checkpoints.files import read_record as read_json
from jeep_core.models.loading import DTYPES, LoadedModel
from jeep_core.monitor import NOTHING, Monitor

BESIDE = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "LICEN[CS]E*",
    "NOTICE*",
    "*TERMS*",
    "USE_POLICY*",
)
"""Files of a model folder that are copied as they are, as far as there are any."""
_SMALL = 2**20
"""Bytes for what no file of the base tells: a card, hashes, headers of another length."""


def checkpoint_bytes(source: Path, dtype: str | None = None) -> int:
    """How many bytes `write_checkpoint` writes at most, from the headers alone."""
    layouts = [read_layout(source / name) for name in _weight_files(source)]
    wanted = None if dtype is None else DTYPES[dtype]
    weights = sum(bytes_after(e, wanted) for layout in layouts for e in layout.entries)
    records = [path for path in (source / CONFIG, source / INDEX) if path.is_file()]
    beside = sum(path.stat().st_size for path in (*records, *_beside(source)))
    return _SMALL + weights + beside


def write_checkpoint(
    folder: Path,
    base: LoadedModel,
    changed: Mapping[str, torch.Tensor],
    dtype: str | None = None,
    monitor: Monitor = NOTHING,
) -> tuple[FileHash, ...]:
    """Write the files of ``base`` into a folder, with the matrices of ``changed`` in place of its.

    ``changed``: tensors of any shape, by parameter name, as a view holds them.  ``dtype``: the
    type of all weights; None: each has the type that it has in the base's files.  No more than a
    few megabytes are in memory; every tensor that is copied is compared with the loaded model.

    Returns the hashes of the weight files.

    Raises:
        NotExportable: the model was not loaded from a folder, its files have changed since, or a
            number is too large for ``dtype``.
        UnsupportedModel, OSError: they cannot be read, or the folder cannot be written.
        Whatever ``monitor.check`` raises.
    """
    source = folder_of(base)
    copied = _Copied(source, base, changed, dtype, monitor)
    hashes = []
    for name in copied.files:
        with HashingFile(folder / name, name) as out:
            rewrite(source / name, out, copied.replaced, copied.dtype, read=copied.compare)
            copied.compare_last()
        hashes.append(out.hash())
    _write_records(source, folder, dtype, copied.total)
    for path in _beside(source):
        beside = folder / path.relative_to(source)
        beside.parent.mkdir(exist_ok=True)
        beside.write_bytes(path.read_bytes())
    return tuple(hashes)


def folder_of(base: LoadedModel) -> Path:
    """The folder that a model was loaded from.

    Raises:
        NotExportable: it was made in memory, or the folder is gone.
    """
    if base.folder is None:
        raise NotExportable(
            f"{base.name} was not loaded from a folder, so there are no files to go with its "
            "weights: save it, and load that folder"
        )
    if not (base.folder / CONFIG).is_file():
        raise NotExportable(
            f"{base.folder}, which the model was loaded from, is gone: put it back, or start with "
            "another one"
        )
    return base.folder


class _Copied:
    """The tensors of a model's folder, compared with the model in memory as they are copied."""

    def __init__(
        self,
        source: Path,
        base: LoadedModel,
        changed: Mapping[str, torch.Tensor],
        dtype: str | None,
        monitor: Monitor,
    ) -> None:
        self.files = _weight_files(source)
        self.dtype = None if dtype is None else DTYPES[dtype]
        stored = read_headers(source)
        self._source, self._base, self._monitor = source, base, monitor
        self._parameters = _parameters(base, list(stored))
        self.replaced = {n: changed[p] for n, p in self._parameters.items() if p in changed}
        lacking = sorted(set(changed) - {self._parameters[name] for name in self.replaced})
        odd = [n for n, t in self.replaced.items() if tuple(t.shape) != stored[n].shape]
        if lacking or odd:
            raise self._another([*lacking, *odd][0])
        layouts = [read_layout(source / name) for name in self.files]
        entries = [entry for layout in layouts for entry in layout.entries]
        self.total = sum(bytes_after(entry, self.dtype) for entry in entries)
        self._all = sum(e.end - e.start for e in entries if e.name not in self.replaced)
        self._done = 0
        self._entry: Entry | None = None
        self._digest = hashlib.sha256()

    def compare(self, entry: Entry, chunk: bytes) -> None:
        """Take in a part of a tensor; the next tensor's first part ends it."""
        self._monitor.check()
        if entry is not self._entry:
            self.compare_last()
            self._entry, self._digest = entry, hashlib.sha256()
        if entry.name in self._parameters:
            loaded = self._base.model.get_parameter(self._parameters[entry.name]).dtype
            same = FLOATS.get(entry.dtype) == loaded
            self._digest.update(chunk if same else raw(numbers(entry, chunk).to(loaded)))
        self._done += len(chunk)
        self._monitor.report("copying", self._done, self._all)

    def compare_last(self) -> None:
        """Compare the tensor that was read last.

        Raises:
            NotExportable: the model in memory has other numbers.
        """
        entry, self._entry = self._entry, None
        parameter = self._parameters.get(entry.name) if entry is not None else None
        if parameter is None:
            return
        if self._digest.hexdigest() != self._base.tensor_hashes[parameter]:
            raise self._another(parameter)

    def _another(self, parameter: str) -> NotExportable:
        return NotExportable(
            f"{self._source} is not the model that was loaded from it, {parameter} differs: put "
            "the files back, or start the worker again with the present ones and a new store"
        )


def _parameters(base: LoadedModel, stored: list[str]) -> dict[str, str]:
    """The model's parameter for each stored tensor; without buffers.

    Published checkpoints leave out the backbone's prefix, or have it where the model has none.  A
    tied head may be stored beside the embedding; both are the same parameter then.
    """
    prefix = f"{base.family.backbone}."
    own = {id(value): name for name, value in base.model.named_parameters()}
    state = base.model.state_dict(keep_vars=True)
    found = {}
    for name in stored:
        for candidate in (name, prefix + name, name.removeprefix(prefix)):
            if candidate in state and id(state[candidate]) in own:
                found[name] = own[id(state[candidate])]
                break
    return found


def _beside(source: Path) -> list[Path]:
    """The files that are copied as they are."""
    return sorted(path for pattern in BESIDE for path in source.glob(pattern) if path.is_file())


def _weight_files(source: Path) -> list[str]:
    """The names of the files with the weights."""
    return sorted({tensor.file for tensor in read_headers(source).values()})


def _write_records(source: Path, folder: Path, dtype: str | None, total: int) -> None:
    """Configuration and index; only what ``dtype`` changes is changed in them."""
    config = source / CONFIG
    if dtype is None:
        (folder / CONFIG).write_bytes(config.read_bytes())
    else:
        record = {k: v for k, v in read_json(config).items() if k not in ("torch_dtype", "dtype")}
        _write_json(folder / CONFIG, {**record, "torch_dtype": dtype})
    if (source / INDEX).is_file():
        index = read_json(source / INDEX)
        index["metadata"] = {**index["metadata"], "total_size": total}
        _write_json(folder / INDEX, index)


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps(record, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
