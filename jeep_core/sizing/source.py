"""The architecture behind a name: a folder, a file, a bundled model, one known by name, a shape.

Only configurations and the headers of weights are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from jeep_core import atlas
from jeep_core.errors import UnsupportedModel
from jeep_core.models.checkpoints.files import CONFIG, INDEX, SINGLE, read_headers, read_record
from jeep_core.models.gguf.convert import prepare
from jeep_core.models.library import Library
from jeep_core.sizing.architecture import Architecture, architecture_of
from jeep_core.sizing.shapes import SHAPES
from jeep_core.spec.naming import did_you_mean

_STORED = {"F64": "float32", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Known:
    """A model's sizes and where they are from.

    ``stored_parameters``: numbers in its files, where there are any; None: nobody has looked.
    """

    name: str
    architecture: Architecture
    origin: str
    stored_parameters: int | None = None


def known_model(name: str, library: Library | None = None) -> Known:
    """The sizes of a model, from the first of these that there is.

    A bundled model, a folder, a ``config.json``, a GGUF file, a name of the model directory, a
    shape by name, the configuration of a hub id.

    Raises:
        UnsupportedModel: there is no such model, or it cannot be edited.
        OSError: a file cannot be read.
    """
    if name in atlas.MODELS:
        return _folder(name, atlas.MODELS[name])
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(name, path)
    if path.is_file():
        return _gguf(name, path) if path.suffix.lower() == ".gguf" else _config(name, path)
    if library is not None and (model := library.find(name)) is not None:
        return _folder(name, model.folder)
    if name in SHAPES:
        return Known(name, architecture_of(SHAPES[name], name), "a shape by name, no files")
    return _hub(name)


def _folder(name: str, folder: Path) -> Known:
    """A model folder; one that has only its configuration yet will do."""
    if not (folder / CONFIG).is_file():
        raise UnsupportedModel(f"{folder} is not a model folder: it has no {CONFIG}")
    record = read_record(folder / CONFIG)
    if not ((folder / SINGLE).is_file() or (folder / INDEX).is_file()):
        found = architecture_of(record, str(folder))
        return Known(name, found, f"{CONFIG} alone, there are no weights")
    if (folder / INDEX).is_file() and not any(folder.glob("*.safetensors")):
        found = architecture_of(record, str(folder))
        size = read_record(folder / INDEX).get("metadata", {}).get("total_size")
        said = f", {size / 1e9:.1f} GB by {INDEX}" if isinstance(size, int) else ""
        return Known(name, found, f"{CONFIG}{said}")
    headers = read_headers(folder).values()
    stored = _STORED.get(max(headers, key=lambda one: prod(one.shape)).dtype)
    if stored is not None:
        record = {**record, "dtype": stored}
    found = architecture_of(record, str(folder))
    numbers = sum(prod(one.shape) for one in headers)
    return Known(name, found, f"{CONFIG} and the headers of the weights", numbers)


def _config(name: str, path: Path) -> Known:
    if path.suffix != ".json":
        raise UnsupportedModel(
            f"{path} is no {CONFIG}, GGUF file or model folder: name one of these"
        )
    found = architecture_of(read_record(path), str(path.parent))
    return Known(name, found, str(path))


def _gguf(name: str, path: Path) -> Known:
    conversion = prepare(path)
    found = architecture_of(conversion.config, name)
    return Known(name, found, "the header of the GGUF file", conversion.parameters)


def _hub(name: str) -> Known:
    from jeep_core.models.checkpoints.source import fetched_config, is_path  # slow to import

    if is_path(name):
        raise UnsupportedModel(
            f"{name} is not there: name a folder, a {CONFIG}, a GGUF file, a hub id (owner/name), "
            f"or one of {', '.join((*atlas.MODELS, *SHAPES))}"
            f"{did_you_mean(name, (*atlas.MODELS, *SHAPES), '; ')}"
        )
    path = fetched_config(name, (*atlas.MODELS, *SHAPES))
    return Known(name, architecture_of(read_record(path), name), f"{CONFIG} of the hub")
