"""Import of published second moments: the ``.npz`` files of the ROME and MEMIT releases.

One file per layer, ``<parameter path>_<dtype>_mom2_<documents>.npz``, with ``mom2.mom2`` the
float32 *sum* Σ k kᵀ over tokens, ``mom2.count`` the number of tokens, ``mom2.constructor`` the
class that wrote it, and ``sample_size`` the number of documents asked for.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from jeep_core.errors import JeepError, MissingMoments, is_no_damage, is_passing
from jeep_core.models.loading import LoadedModel
from jeep_core.moments.source import import_command, imported_path
from jeep_core.spec.matrices import GradientOf, Measured
from jeep_core.storage.files import read_record, save_whole
from jeep_core.storage.looking import present
from jeep_core.text.counting import counted

SYMMETRIC = 1e-3
WANTED = "published second moments are .npz files with mom2.mom2 and mom2.count"
_NAME = re.compile(r"(?P<module>[\w.]+?)_(?P<dtype>float(16|32|64))_(?P<stats>[\w-]*mom2[\w-]*)")
_LAYER = re.compile(r"\.(?P<layer>\d+)\.")


@dataclass(frozen=True)
class Imported:
    """A set of imported statistics, ``name``, in the folder of second moments."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name) or self.name.startswith("."):
            raise JeepError(f"{self.name!r} names no statistics: letters, digits, '_', '-', '.'")

    def path(self, base: LoadedModel, layer: Measured) -> Path:
        """Where the moment of a layer is kept."""
        return imported_path(self.folder, self.name, base.model_hash, layer)

    def provenance(self, base: LoadedModel, layer: Measured) -> dict[str, Any]:
        """Where the moment of a layer came from.

        Raises:
            JeepError: it was not imported.
        """
        path = self.path(base, layer)
        if not present(path):
            raise not_imported(self.name, layer)
        try:
            record = read_record(path)
            if not isinstance(record["sha256"], str):
                raise ValueError("its header names no file")
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            if is_no_damage(error):
                raise
            raise JeepError(
                f"{path} is damaged ({error}): remove it, then "
                f"{import_command(self.name)} writes it again"
            ) from error
        return record

    def key(self, base: LoadedModel, layer: Measured) -> str:
        """Hash of model, layer and imported file; never that of a corpus."""
        record = self.provenance(base, layer)
        parts = ("imported", base.model_hash, layer, record["sha256"])
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def add(self, base: LoadedModel, file: Path, layer: int | None = None) -> dict[str, Any]:
        """Import one file; its provenance.  ``layer`` is needed if the file's name lacks it.

        Raises:
            JeepError: the file does not hold such statistics, or not of this model's shape, or
                the layer was imported from another file under the same name.
        """
        layer = _layer(base, file, layer)
        data = _read(file)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        path = self.path(base, layer)
        if present(path):
            known = self.provenance(base, layer)
            if known["sha256"] == sha256:
                return known
            raise JeepError(
                f"{self.name!r} has layer {layer} from {known['file']}; take another name"
            )
        total, count = _sum_and_count(data, file)
        if len(total) != base.mlp_size:
            raise JeepError(
                f"{file.name}: moments of {len(total)} dimensions, but the keys of {base.name} "
                f"(inputs of {base.family.mlp_out}) have {base.mlp_size}"
            )
        # (d_ff, d_ff): the mean, in float64 before it is rounded
        moment = torch.from_numpy(total).double() / count
        record = {
            "file": "/".join(file.absolute().parts[-3:]),
            "sha256": sha256,
            "layer": layer,
            "tokens": count,
            "documents": _whole(data.get("sample_size")),
            "dtype": str(total.dtype),
            "written_by": str(data.get("mom2.constructor", "")),
            "model": base.name,
            "model_hash": base.model_hash,
            "imported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        save_whole(path, {"moment": ((moment + moment.T) / 2).float()}, record)
        return record


def not_imported(name: str, place: Measured) -> MissingMoments:
    """The error for a matrix that these statistics were not imported for, or for gradients."""
    if isinstance(place, GradientOf):
        return MissingMoments(
            "published statistics have no second moments of gradients: take all of them over a text"
        )
    return MissingMoments(
        f"layer {place} has no imported second moments named {name!r}: "
        f"{import_command(name)} adds them"
    )


def _layer(base: LoadedModel, file: Path, given: int | None) -> int:
    """The layer that a file is of, by its name or as given."""
    named = _NAME.match(file.name)
    number = named and _LAYER.search(named["module"])
    if named and number:
        layer = int(number["layer"])
        wanted = base.family.weight_name(layer).removesuffix(".weight")
        if named["module"] != wanted:
            raise JeepError(
                f"{file.name} is of {named['module']}; the keys of {base.name} are the inputs "
                f"of {wanted}"
            )
        if given is not None and given != layer:
            raise JeepError(f"{file.name} is of layer {layer}, not {given}")
    elif given is None:
        raise JeepError(f"{file.name} does not say its layer; give it")
    else:
        layer = given
    if not 0 <= layer < base.n_layers:
        raise JeepError(
            f"{file.name}: {base.name} has {counted(base.n_layers, 'layer')}, none {layer}"
        )
    return layer


def _read(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file; numpy and zipfile raise errors of many kinds for a bad one.

    Raises:
        JeepError: it names the file and says what is wrong.
    """
    try:
        if file.stat().st_size == 0:
            raise JeepError(f"{file} is empty: {WANTED}")
        if not zipfile.is_zipfile(file):
            raise JeepError(f"{file} is no .npz file, which is a zip archive: {WANTED}")
        with np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except JeepError:
        raise
    except OSError as error:
        if is_passing(error):
            raise
        raise JeepError(f"{file} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        if is_passing(error):
            raise
        raise JeepError(f"{file} is damaged, or no .npz file: {error}; {WANTED}") from error
    arrays = {name: array for name, array in found.items() if isinstance(array, np.ndarray)}
    if not arrays:
        raise JeepError(f"{file} holds no arrays: {WANTED}")
    return arrays


def _sum_and_count(data: Mapping[str, NDArray[Any]], file: Path) -> tuple[NDArray[Any], int]:
    """Σ k kᵀ and the number of tokens, checked."""
    missing = [name for name in ("mom2.mom2", "mom2.count") if name not in data]
    if missing:
        raise JeepError(f"{file.name} lacks {' and '.join(missing)}; it has {', '.join(data)}")
    written_by = str(data.get("mom2.constructor", "SecondMoment()"))
    if "SecondMoment" not in written_by:
        raise JeepError(f"{file.name}: mom2 was written by {written_by}, not a SecondMoment")
    total, count = data["mom2.mom2"], _whole(data["mom2.count"])
    if total.ndim != 2 or total.shape[0] != total.shape[1] or total.dtype.kind != "f":
        raise JeepError(f"{file.name}: mom2.mom2 is {total.dtype} {total.shape}, not square floats")
    if count is None or count < 1:
        raise JeepError(f"{file.name}: mom2.count is {data['mom2.count']}, not a number of tokens")
    if not np.isfinite(total).all():
        raise JeepError(f"{file.name}: mom2.mom2 has entries that are not finite")
    if (total.diagonal() < 0).any():
        raise JeepError(f"{file.name}: mom2.mom2 has a negative diagonal: no second moment")
    if np.abs(total - total.T).max() > SYMMETRIC * max(np.abs(total).max(), 1e-300):
        raise JeepError(f"{file.name}: mom2.mom2 is not symmetric: no second moment")
    return total, count


def _whole(value: NDArray[Any] | None) -> int | None:
    """A stored whole number; the files write None as a NaN."""
    if value is None or value.ndim or value.dtype.kind not in "iuf" or not np.isfinite(value):
        return None
    return int(value)
