"""The model as the caller has it, for a worker: a folder, and a version's matrices.

Weights are never sent: a worker loads the folder that the caller has loaded and compares hashes.  A
version is sent once, as the updates of its matrices where they are known; a worker makes the
matrices from them and compares their hashes, and is sent those whole that came out otherwise.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch

from jeep_core.errors import JeepError, UnsupportedModel
from jeep_core.models.delta import Update, materialise
from jeep_core.models.families import is_transposed
from jeep_core.models.loading import LoadedModel, combined_sha256, load, tensor_sha256
from jeep_core.models.views import ModelView

Parts = dict[str, torch.Tensor]
"""One update, as ``Update.parts`` gives it."""


@dataclass(frozen=True)
class Source:
    """Where a model is and what it must be: ``dtype`` in torch's name, ``device`` as for `load`."""

    folder: str
    name: str
    dtype: str
    device: str
    model_hash: str


def source_of(base: LoadedModel) -> Source:
    """The source of a model in this process.

    Raises:
        JeepError: it was made in memory.
    """
    if base.folder is None:
        raise JeepError(
            f"{base.name} was made in memory, and workers load a model from its folder: save it "
            "there and load it, or leave the executor out"
        )
    dtype = str(base.dtype).removeprefix("torch.")
    device = str(base.layout) if len(base.devices) > 1 else str(base.device)
    return Source(str(base.folder.resolve()), base.name, dtype, device, base.model_hash)


def load_source(source: Source) -> LoadedModel:
    """The model of a source, in another process or on another machine.

    Raises:
        UnsupportedModel: it cannot be loaded, or is another one than the caller's.
    """
    base = load(source.folder, source.device, source.dtype)
    if base.model_hash != source.model_hash:
        raise UnsupportedModel(
            f"{source.folder} holds another model here than where it is served "
            f"({base.model_hash[:12]}, not {source.model_hash[:12]}): give every machine the same "
            "files"
        )
    return replace(base, name=source.name)


@dataclass(frozen=True)
class Version:
    """The edited matrices of a version, any shape each, on the CPU.

    ``hashes`` by name of the matrix; ``updates`` are those since the base model, oldest first;
    ``whole`` are the matrices that not all updates are known of, or are to be sent as they are.
    """

    key: str
    hashes: dict[str, str]
    updates: dict[str, list[Parts]]
    whole: dict[str, torch.Tensor]


def version_of(view: ModelView, whole: Collection[str] = ()) -> Version:
    """A view as it is sent; the matrices ``whole`` (any shape) as they are.

    So is one whose first updates are known as a sum alone: that is in float64, larger than it.
    """
    whole = {*whole, *view.starts}
    hashes = {name: tensor_sha256(tensor) for name, tensor in view.replaced.items()}
    updates = {
        name: [{part: t.cpu() for part, t in update.parts().items()} for update in history]
        for name, history in view.history.items()
        if name in hashes and name not in whole and history
    }
    rest = {name: t.cpu() for name, t in view.replaced.items() if name not in updates}
    return Version(combined_sha256(hashes), hashes, updates, rest)


def view_of(base: LoadedModel, version: Version) -> tuple[ModelView, list[str]]:
    """The view of a version, and the names of the matrices that did not come out as they were."""
    view, unlike = ModelView(base), []
    for name, tensor in version.whole.items():
        view.replace(name, tensor)
    for name, updates in version.updates.items():
        owner = base.model.get_submodule(name.rpartition(".")[0])
        made = materialise(
            base.model.get_parameter(name), map(Update.from_parts, updates), is_transposed(owner)
        )
        if tensor_sha256(made) == version.hashes[name]:
            view.replace(name, made)
        else:
            unlike.append(name)
    return view, unlike
