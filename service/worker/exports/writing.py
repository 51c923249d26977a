"""The version that a format's module is given, and the records that it returns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jeep_core.evaluation.units import Told
from jeep_core.exports.bases import BaseName
from jeep_core.exports.card import Origin
from jeep_core.exports.folders import FileHash
from jeep_core.models.delta import Update
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from service.contracts.schemas import Manifest
from service.contracts.schemas.exports import Check
from service.worker.editing.asking import Edited
from service.worker.lanes.read_lane import Task
from service.worker.versions.tensors import TensorCache
from service.worker.versions.views import updates_of


@dataclass(frozen=True)
class Version:
    """The version that an export is of.

    ``line`` leads from base to it, ``facts`` are its live ones, ``origin`` is what its card says.
    """

    task: Task
    line: Sequence[Manifest]
    facts: Sequence[Edited]
    origin: Origin

    @property
    def manifest(self) -> Manifest:
        """The version itself."""
        return self.line[-1]

    @property
    def base(self) -> LoadedModel:
        """The model that it was edited from."""
        return self.task.base

    @property
    def base_name(self) -> BaseName:
        """That model, as the files name it."""
        return BaseName(self.origin.base, self.origin.hub_id)

    @property
    def monitor(self) -> Monitor:
        """The job's surroundings, for the library."""
        return self.task.control.monitor

    @cached_property
    def view(self) -> ModelView:
        """The version in memory, a view of its own."""
        return self.task.view(self.manifest.id)

    @cached_property
    def updates(self) -> dict[str, list[Update]]:
        """The updates of each changed matrix, oldest first, by parameter name.

        A matrix without factors, of an early release, has its whole change as one dense update.
        """
        artifacts = TensorCache(self.task.store)
        found: dict[str, list[Update]] = defaultdict(list)
        for manifest in self.line:
            for name, update in updates_of(artifacts, manifest).items():
                found[name].append(update)
        for name, tensor in self.view.replaced.items():
            if name not in found:
                change = tensor.double() - self.base.model.get_parameter(name).double()
                found[name] = [Update(dense=change.float().cpu())]
        return dict(found)


@dataclass(frozen=True)
class Written:
    """The files that a format's ``write`` has made.

    ``use`` is a command or program that loads the folder; in it ``FOLDER`` stands for the folder.
    ``library``: what loads it, as hubs name it.  ``said``: a sentence for the card.  ``hashes`` are
    those that are known already.  ``details`` are figures for the result.
    """

    use: str
    library: str
    said: str
    details: Mapping[str, Any] = field(default_factory=dict)
    hashes: Sequence[FileHash] = ()


@dataclass(frozen=True)
class Evidence:
    """The findings of a format's ``prove``.

    ``view`` is what was written as a model that is then asked the version's facts.  A format whose
    files another program answers from has asked it: ``told`` are its answers, in the order of the
    facts, and ``advice`` says what to do about lost ones.  Without either, ``not_asked`` says why
    nothing can be asked.
    """

    view: ModelView | None = None
    told: Sequence[Told] | None = None
    advice: str | None = None
    checks: Sequence[Check] = ()
    not_asked: str | None = None


@dataclass(frozen=True)
class Writer:
    """A format's functions.  All are given the version and the options of the request.

    ``needed``: how many bytes it writes, at most, before it writes any.  ``write`` fills a folder;
    ``prove`` reads what is in it.  Both raise errors of the library to refuse a version, and let
    pass what the monitor raises.
    """

    needed: Callable[[Version, Any], int]
    write: Callable[[Version, Any, Path], Written]
    prove: Callable[[Version, Any, Path], Evidence]
