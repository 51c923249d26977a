"""The files of a model folder: which must be there, their records, the headers of the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from jeep_core.errors import UnsupportedModel, is_passing, reason_of
from jeep_core.models.checkpoints.advice import convert_gguf, convert_pickled, merge_adapter, some
from jeep_core.storage.reading import reader

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTERS = (ADAPTER_CONFIG, "adapter_model.safetensors", "adapter_model.bin")
RECORDS = (
    CONFIG,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Files that are JSON objects.  transformers goes on without some of them if they are damaged."""

DTYPES = ("F64", "F32", "F16", "BF16")
"""Types of weights, as safetensors names them.  Smaller types are quantised."""

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
"""Endings of files that may run code when they are read."""

_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Stored:
    """A tensor as the header of its file describes it."""

    file: str
    shape: tuple[int, ...]
    dtype: str


def check_records(folder: Path) -> None:
    """Check all but the weights: a configuration, readable records, and no adapter.

    Raises:
        UnsupportedModel: a record is missing or damaged, or the folder holds an adapter.
    """
    try:
        _refuse_adapters(folder)
        if not (folder / CONFIG).exists():
            raise UnsupportedModel(_no_config(folder))
        for name in RECORDS:
            if (folder / name).exists():
                read_record(folder / name)
    except OSError as error:
        if is_passing(error):
            raise
        raise _unreadable(folder, error) from None


def read_headers(folder: Path) -> Mapping[str, Stored]:
    """The tensors of a folder by name, from the headers of its files; no weight is read.

    Raises:
        UnsupportedModel: weights are missing, damaged, there twice, or not safetensors.
    """
    try:
        return _headers(_weight_files(folder))
    except OSError as error:
        if is_passing(error):
            raise
        raise _unreadable(folder, error) from None


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UnsupportedModel: the file is not one, or cannot be read.
    """
    refuse_pointer(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if is_passing(error):
            raise
        raise UnsupportedModel(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UnsupportedModel(
            f"{path} is damaged, it is not JSON ({reason_of(error)}): copy it again"
        ) from None
    if not isinstance(record, dict):
        raise UnsupportedModel(f"{path} is damaged, it is not a JSON object: copy it again")
    return record


def refuse_pointer(path: Path) -> None:
    """Refuse the pointer that Git LFS puts in place of a large file that was not fetched.

    Raises:
        UnsupportedModel: the file is such a pointer.
    """
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise UnsupportedModel(
                    f"{path} is a pointer of Git LFS, not the file itself: "
                    "run git lfs pull in its folder"
                )


def _unreadable(folder: Path, error: OSError) -> UnsupportedModel:
    reason = error.strerror or reason_of(error)
    return UnsupportedModel(f"{error.filename or folder} cannot be read: {reason}")


def _refuse_adapters(folder: Path) -> None:
    """transformers would put an adapter on the model wherever the package peft is installed."""
    found = [name for name in ADAPTERS if (folder / name).exists()]
    if not found:
        return
    if (folder / CONFIG).exists():
        raise UnsupportedModel(
            f"{folder} holds a model and an adapter ({', '.join(found)}), which are not combined "
            "here: move the adapter into a folder of its own; a start with that folder says how "
            "to merge it"
        )
    record = read_record(folder / ADAPTER_CONFIG) if (folder / ADAPTER_CONFIG).exists() else {}
    base, modules = record.get("base_model_name_or_path"), record.get("target_modules")
    modules = modules if isinstance(modules, list) else [modules]  # or a pattern
    base = base if isinstance(base, str) and base else "MODEL"
    raise UnsupportedModel(
        f"{folder} is an adapter for {base} ({', '.join(found)}), not a model: "
        f"{merge_adapter(folder, base, [str(name) for name in modules])}"
    )


def _no_config(folder: Path) -> str:
    start = f"{folder} is not a model folder: it has no {CONFIG}"
    gguf = sorted(folder.glob("*.gguf"))
    return f"{start}; {convert_gguf(gguf[0])}" if gguf else start


def _weight_files(folder: Path) -> Sequence[Path]:
    """The files with the weights, in the order in which they are loaded."""
    single, index = folder / SINGLE, folder / INDEX
    if not single.is_file() and not index.is_file():
        raise UnsupportedModel(_no_weights(folder))
    if not index.is_file():
        return [single]
    shards = _shards(index)
    if single.exists() and shards != [SINGLE]:
        raise UnsupportedModel(
            f"{folder} holds the weights twice, as {SINGLE} and as the shards of {INDEX}: "
            "remove the one that is not meant"
        )
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise UnsupportedModel(
            f"{folder} lacks {some(missing)}, which {INDEX} names: copy what is missing"
        )
    return [folder / name for name in shards]


def _shards(index: Path) -> list[str]:
    record = read_record(index)
    names = record.get("weight_map")
    if not isinstance(names, dict) or not names or not isinstance(record.get("metadata"), dict):
        raise UnsupportedModel(
            f"{index} is damaged, it lacks weight_map or metadata: copy it again"
        )
    odd = [n for n in names.values() if not isinstance(n, str) or n != Path(n).name or n == ".."]
    if odd:
        raise UnsupportedModel(
            f"{index} is damaged, {odd[0]!r} is no file of its folder: copy it again"
        )
    return sorted(set(names.values()))


def _no_weights(folder: Path) -> str:
    start = f"{folder} has no {SINGLE}"
    if any(path.suffix in PICKLED for path in folder.iterdir()):
        return f"{start}; {convert_pickled(folder)}"
    if gguf := sorted(folder.glob("*.gguf")):
        return f"{start}; {convert_gguf(gguf[0])}"
    if others := sorted(p.name for p in folder.glob("*.safetensors") if p.is_file()):
        return f"{start}: {some(others)} must have that name, or be named by {INDEX}"
    return f"{start}: copy the weights, which must be safetensors, into it"


def _headers(files: Sequence[Path]) -> Mapping[str, Stored]:
    found: dict[str, Stored] = {}
    for path in files:
        refuse_pointer(path)
        try:
            with reader(path, "np") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    part = file.get_slice(name)
                    shape, dtype = tuple(part.get_shape()), str(part.get_dtype())
                    if name in found:
                        raise UnsupportedModel(
                            f"{path.parent} holds {name} twice, in {found[name].file} and "
                            f"{path.name}: copy the weights again"
                        )
                    found[name] = Stored(path.name, shape, dtype)
        except OSError as error:
            if is_passing(error):
                raise
            reason = error.strerror or reason_of(error)
            raise UnsupportedModel(f"{path} cannot be read: {reason}") from None
        except (SafetensorError, ValueError, OverflowError) as error:
            if is_passing(error):
                raise
            raise UnsupportedModel(
                f"{path} is damaged, it is no whole safetensors file ({reason_of(error)}): "
                "copy it again"
            ) from None
    return found
