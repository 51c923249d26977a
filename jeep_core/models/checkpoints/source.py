"""From the name of a model to its folder."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import list_repo_files, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from jeep_core import atlas
from jeep_core.errors import UnsupportedModel, reason_of
from jeep_core.models.checkpoints.advice import convert_gguf, convert_pickled
from jeep_core.models.checkpoints.files import PICKLED

WANTED = (
    "*.json",
    "model.safetensors",
    "model-*.safetensors",
    "tokenizer.model",
    "merges.txt",
    "adapter_model.safetensors",
)
"""Files that are fetched from the hub: never weights in other formats, never code."""

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_WEIGHT_FILES = (".safetensors", ".gguf", *PICKLED)


def locate(name: str) -> Path:
    """The folder of a model: a bundled one, a local one, or one fetched from the hub.

    A folder that exists is taken before a hub id of the same name; what looks like a path is
    never asked for on the hub.

    Raises:
        UnsupportedModel: there is no such model, or ``name`` is a file.
    """
    if name in atlas.MODELS:
        return atlas.MODELS[name]
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        if path.is_file():
            raise UnsupportedModel(_file(path))
    except RuntimeError:  # ~someone who has no home here
        raise UnsupportedModel(f"{name}: there is no such home folder") from None
    except OSError as error:
        raise UnsupportedModel(f"{name} cannot be read: {error.strerror}") from None
    if _is_path(name):
        raise UnsupportedModel(
            f"{path} is not there: name a model folder, a hub id (owner/name), or one of "
            f"{', '.join(atlas.MODELS)}"
        )
    return _fetched(name)


def _is_path(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is None or name.endswith(_WEIGHT_FILES)


def _file(path: Path) -> str:
    start = f"{path} is a file, not a model folder"
    if path.suffix == ".gguf":
        return f"{start}; {convert_gguf(path)}"
    if path.suffix == ".safetensors":
        return f"{start}: name the folder that holds it beside config.json and tokenizer.json"
    if path.suffix in PICKLED:
        return f"{start}; {convert_pickled(path.parent)}"
    return f"{start}: name a folder with config.json, model.safetensors and tokenizer.json"


def _fetched(name: str) -> Path:
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*WANTED], ignore_patterns=["*/*"]))
        if not any(folder.glob("*.safetensors")) and _only_pickled(name):
            raise UnsupportedModel(f"{name} has no safetensors; {convert_pickled(Path(name))}")
        return folder
    except UnsupportedModel:
        raise
    except GatedRepoError:
        reason = "its terms must be accepted on the hub, and HF_TOKEN be set to a token of yours"
    except RepositoryNotFoundError:
        reason = "the hub has no model of this name, or HF_TOKEN does not give access to it"
    except LocalEntryNotFoundError:
        reason = "the hub cannot be reached, and no copy is in the cache: name a local folder"
    except Exception as error:  # any error of networks and disks
        reason = f"it cannot be fetched from the hub ({reason_of(error)})"
    raise UnsupportedModel(f"there is no folder {name} here, and as a hub id: {reason}")


def _only_pickled(name: str) -> bool:
    """Whether the hub has the weights in a format that is not fetched; False where nobody knows."""
    try:
        return any(file.endswith(PICKLED) for file in list_repo_files(name))
    except Exception:  # the folder's own check says what is missing
        return False
