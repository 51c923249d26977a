"""From the name of a model to its folder."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from huggingface_hub import constants, hf_hub_download, list_repo_files, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from jeep_core import atlas
from jeep_core.errors import (
    ModelNotFetched,
    UnsupportedModel,
    is_out_of_memory,
    is_passing,
    reason_of,
)
from jeep_core.models.catalogue import CATALOGUE
from jeep_core.models.checkpoints.advice import convert_pickled
from jeep_core.models.checkpoints.files import CONFIG, PICKLED
from jeep_core.spec.naming import did_you_mean
from jeep_core.storage.hub import can_be_asked

if TYPE_CHECKING:
    from jeep_core.models.library import Library

log = logging.getLogger(__name__)

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
OWNED = "/"
"""Stands between owner and name in a hub id."""
_BUSY, _OF_THE_SERVER = {408, 425, 429}, 500
_WEIGHT_FILES = (".safetensors", ".gguf", *PICKLED)


def locate(name: str, library: Library | None = None) -> Path:
    """The folder of a model: bundled, local, of the model directory, or fetched from the hub.

    A folder or file that exists is taken before a name of the directory, and that before a hub
    id; what looks like a path is never asked for on the hub.  A GGUF file is converted into the
    directory, once.

    Raises:
        UnsupportedModel: there is no such model, or ``name`` is a file of another kind.
        OSError: the model directory cannot be read or written.
    """
    place = here(name, library)
    if place is None:
        return fetched(name, _names(library))
    return place if place.is_dir() else _converted(place, library)


def here(name: str, library: Library | None = None) -> Path | None:
    """The folder or file of a model that is on this machine; None: ``name`` is a hub id.

    Nothing is converted or fetched.

    Raises:
        UnsupportedModel: there is no such model.
        OSError: the model directory cannot be read.
    """
    if name in atlas.MODELS:
        return atlas.MODELS[name]
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        is_file = path.is_file()
    except RuntimeError:  # ~someone who has no home here
        raise UnsupportedModel(f"{name}: there is no such home folder") from None
    except OSError as error:
        if is_passing(error):
            raise
        raise UnsupportedModel(f"{name} cannot be read: {error.strerror}") from None
    if is_file:
        return path
    if library is not None and (model := library.find(name)) is not None:
        return model.folder
    if name in CATALOGUE:
        if library is None:
            raise UnsupportedModel(
                f"{name} is a name of jeep models: name its folder, which jeep models show {name} "
                "tells, or the model directory (models_dir)"
            )
        raise UnsupportedModel(
            f"{name} is not here yet in {library.root}: get it once with jeep models get {name}"
        )
    if is_path(name):
        raise UnsupportedModel(
            f"{path} is not there: name a model folder, a GGUF file, a hub id (owner/name), or one "
            f"of {', '.join(atlas.MODELS)}{did_you_mean(name, _names(library), '; ')}"
        )
    return None


def _names(library: Library | None) -> list[str]:
    """The names that a model may be given by: bundled ones, those of the catalogue, those here."""
    names = [*atlas.MODELS, *CATALOGUE]
    if library is not None:
        with suppress(OSError):  # names for a suggestion
            names += [one for one in library.names() if one not in names]
    return names


def is_path(name: str) -> bool:
    """Whether a name can only be a path, no hub id."""
    return _HUB_ID.fullmatch(name) is None or name.endswith(_WEIGHT_FILES)


def _converted(path: Path, library: Library | None) -> Path:
    """The folder that a GGUF file becomes."""
    if path.suffix.lower() != ".gguf":
        raise UnsupportedModel(_file(path))
    if library is None:
        raise UnsupportedModel(
            f"{path} is converted into a folder, and no directory for it is given: name one "
            "(models_dir=, --models-dir, JEEP_MODELS)"
        )
    return library.converted(path, _Logged(path.name))


class _Logged:
    """Progress as lines of the log, one for each tenth."""

    def __init__(self, what: str) -> None:
        self.what, self.said = what, ""

    def __call__(self, doing: str, done: int, total: int) -> None:
        tenth = f" {10 * (10 * done // total)} %" if total else ""
        if self.said != (line := f"{self.what}: {doing}{tenth}"):
            self.said = line
            log.info("%s", line)


def _file(path: Path) -> str:
    start = f"{path} is a file, not a model folder"
    if path.suffix == ".safetensors":
        return f"{start}: name the folder that holds it beside config.json and tokenizer.json"
    if path.suffix in PICKLED:
        return f"{start}; {convert_pickled(path.parent)}"
    return f"{start}: name a folder with config.json, model.safetensors and tokenizer.json"


def fetched(name: str, others: Iterable[str] = ()) -> Path:
    """The folder of a hub id in the hub's cache; fetched unless it is offline and there.

    ``others`` are names that may have been meant.

    Raises:
        UnsupportedModel: the hub has no such model, or is not to be asked and it is not there.
        ModelNotFetched: the hub does not give it now.  A name without an owner that no hub could
            be asked about is refused instead: it is more likely one of a folder, mistyped.
        MemoryError, OSError: this machine cannot take it now, as its disk is full.
    """
    with _from_hub(name, f"there is no folder {name} here{_meant(name, others)}"):
        found = snapshot_download(
            name,
            allow_patterns=[*WANTED],
            ignore_patterns=["*/*"],
            local_files_only=not can_be_asked(),
        )
        folder = Path(found)
        if not any(folder.glob("*.safetensors")) and _only_pickled(name):
            raise UnsupportedModel(f"{name} has no safetensors; {convert_pickled(Path(name))}")
        return folder


def fetched_config(name: str, others: Iterable[str] = ()) -> Path:
    """The configuration of a hub id, alone; ``others`` as in `fetched`.

    Raises:
        UnsupportedModel, ModelNotFetched, MemoryError, OSError: as `fetched`.
    """
    with _from_hub(name, f"there is no model {name} here{_meant(name, others)}"):
        return Path(hf_hub_download(name, CONFIG, local_files_only=not can_be_asked()))


def _meant(name: str, others: Iterable[str]) -> str:
    asked = did_you_mean(name, others)
    return f" ({asked})" if asked else ""


@contextmanager
def _from_hub(name: str, start: str) -> Iterator[None]:
    """Turn errors of the hub's client over a name into one sentence that begins with ``start``."""
    for_now = False
    try:
        yield
        return
    except (UnsupportedModel, ModelNotFetched, MemoryError):
        raise
    except GatedRepoError:
        reason = "its terms must be accepted on the hub, and HF_TOKEN be set to a token of yours"
    except RepositoryNotFoundError:
        reason = "the hub has no model of this name, or HF_TOKEN does not give access to it"
    except LocalEntryNotFoundError:
        reason = "the hub cannot be reached, and no copy is in the cache: name a local folder"
        for_now = OWNED in name and not constants.is_offline_mode()
    except Exception as error:  # any error of networks and disks
        if is_out_of_memory(error):
            raise MemoryError(reason_of(error)) from error
        of_the_network = _is_of_the_network(error)
        if isinstance(error, OSError) and is_passing(error) and not of_the_network:
            raise  # of the disk: it names the file
        for_now = of_the_network or is_passing(error)
        reason = f"it cannot be fetched from the hub ({reason_of(error)})"
    kind = ModelNotFetched if for_now else UnsupportedModel
    raise kind(f"{start}, and as a hub id: {reason}")


def _is_of_the_network(error: Exception) -> bool:
    """Whether the hub, or the way to it, may give another time what it does not give now."""
    if constants.is_offline_mode():
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _BUSY or error.response.status_code >= _OF_THE_SERVER
    # the last one: of the part of the hub's client that is written in Rust
    away = (httpx.TransportError, ConnectionError, TimeoutError, socket.gaierror, RuntimeError)
    return isinstance(error, away)


def _only_pickled(name: str) -> bool:
    """Whether the hub has the weights in a format that is not fetched; False where nobody knows."""
    try:
        return any(file.endswith(PICKLED) for file in list_repo_files(name))
    except Exception:  # the folder's own check says what is missing
        return False
