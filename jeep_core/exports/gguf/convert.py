"""A version as a GGUF file: of the file that its model came from, or of a model folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jeep_core.errors import NotExportable
from jeep_core.exports.gguf.quantise import contents
from jeep_core.exports.gguf.repack import as_stored, tensors_of, write_with
from jeep_core.exports.gguf.tools import CONVERTER, QUANTIZER, LlamaCpp
from jeep_core.exports.gguf.types import EditedType, GgufType
from jeep_core.models.gguf.blocks import F32, Array, kind_name, kind_named, kinds
from jeep_core.models.gguf.reader import read
from jeep_core.monitor import NOTHING, Monitor

_PLAIN = (GgufType.F16, GgufType.BF16)
_OUTTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
"""What the converter writes without a change, by the type of a folder's weights."""


@dataclass(frozen=True)
class Made:
    """A file that was written.

    ``types`` are those of its tensors, the most frequent first, ``edited`` those of the edited
    matrices by llama.cpp's name, and ``programs`` what was run to make it.
    """

    types: str
    edited: Mapping[str, str]
    programs: Sequence[str]


def from_source(
    out: Path,
    source: Path,
    values: Mapping[str, Array],
    kind: GgufType,
    edited: EditedType,
    tools: LlamaCpp,
    scratch: Path,
    monitor: Monitor = NOTHING,
) -> Made:
    """Write the file that a model came from, with the matrices that a version has changed.

    ``values``: the changed matrices by their names in transformers, in its orientation.  With
    the type ``source`` only they are stored anew, each in its own type unless ``edited`` names
    one; another type goes through llama-quantize.

    Raises:
        MissingProgram: llama-quantize is needed and was not found.
        NotExportable: a matrix is not in the file, or cannot be stored in the type.
        UnsupportedModel: the source cannot be read.
        OSError: the source cannot be read, or nothing be written.
        Whatever ``monitor.check`` raises.
    """
    check_makeable(kind, tools, has_source=True)
    file = read(source)
    known = tensors_of(file)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise NotExportable(f"{source.name} has no {unknown[0]}: it is not the model's source")
    stored = {known[n].source: as_stored(known[n], v) for n, v in values.items()}
    if kind is GgufType.SOURCE:
        same = {name: file.tensors[name].kind for name in stored}
        into = same if edited is EditedType.SAME else dict.fromkeys(stored, kind_named(edited))
        new = contents(file, stored, into, tools, scratch, monitor)
        write_with(out, file, new, monitor)
        return _made(out, list(stored), [])
    plain = scratch / "version.gguf"
    into = dict.fromkeys(stored, F32)
    write_with(plain, file, contents(file, stored, into, tools, scratch, monitor), monitor)
    _quantise(out, plain, kind, edited, list(stored), tools, scratch, monitor)
    plain.unlink()
    return _made(out, list(stored), [QUANTIZER])


def from_folder(
    out: Path,
    folder: Path,
    changed: Sequence[str],
    kind: GgufType,
    edited: EditedType,
    tools: LlamaCpp,
    scratch: Path,
    monitor: Monitor = NOTHING,
) -> Made:
    """Convert a model folder that holds a version; ``changed`` are its edited matrices.

    Raises:
        MissingProgram: a program of llama.cpp is needed and was not found.
        NotExportable: the converter does not know the model or its tokenizer; repeats what it
            says.
        OSError: the folder cannot be read, or nothing be written.
        Whatever ``monitor.check`` raises.
    """
    check_makeable(kind, tools, has_source=False)
    direct = kind in _PLAIN
    first = out if direct else scratch / "plain.gguf"
    outtype = kind.lower() if direct else _outtype(folder)
    monitor.report("convert", 0, 1)
    arguments = [str(folder), "--outfile", str(first), "--outtype", outtype]
    tools.run(CONVERTER, arguments, scratch / "convert.log", monitor)
    if not first.is_file():
        raise NotExportable(f"{CONVERTER} of llama.cpp has written no file from {folder.name}")
    known = tensors_of(read(first))
    names = [known[name].source for name in changed if name in known]
    if not direct:
        _quantise(out, first, kind, edited, names, tools, scratch, monitor)
        first.unlink()
    return _made(out, names, [CONVERTER] if direct else [CONVERTER, QUANTIZER])


def check_types(kind: GgufType, edited: EditedType) -> None:
    """Check that edited matrices are not to be kept in a type that keeps less.

    Raises:
        NotExportable: they are.
    """
    if edited is not EditedType.SAME and kind in _PLAIN:
        raise NotExportable(
            f'edited matrices as {edited} in a file of {kind} would lose, not gain: leave "edited" '
            "out, or take a quantised type"
        )


def check_makeable(kind: GgufType, tools: LlamaCpp, *, has_source: bool) -> None:
    """Check that a file of a type can be made here, before anything is written for it.

    ``has_source``: the model came as a GGUF file, which is still there.

    Raises:
        NotExportable: the type is for models that came as such a file.
        MissingProgram: a program of llama.cpp is needed and was not found.
    """
    if kind is GgufType.SOURCE:
        if not has_source:
            raise NotExportable(
                'the type "source" is for a model that came as a GGUF file, and this one did not: '
                "name one of F16, BF16, Q8_0, Q4_K_M"
            )
        return
    if not has_source:
        tools.needed(CONVERTER)
    if has_source or kind not in _PLAIN:
        tools.needed(QUANTIZER)


def _quantise(
    out: Path,
    plain: Path,
    kind: GgufType,
    edited: EditedType,
    names: Sequence[str],
    tools: LlamaCpp,
    scratch: Path,
    monitor: Monitor,
) -> None:
    monitor.report("quantise", 0, 1)
    arguments = ["--allow-requantize"]
    for name in names if edited is not EditedType.SAME else ():
        arguments += ["--tensor-type", f"^{re.escape(name)}$={edited.lower()}"]
    arguments += [str(plain), str(out), kind, "1"]
    tools.run(QUANTIZER, arguments, scratch / "quantise.log", monitor)
    if not out.is_file():
        raise NotExportable(f"{QUANTIZER} of llama.cpp has written no file")
    with out.open("rb") as file:
        os.fsync(file.fileno())


def _outtype(folder: Path) -> str:
    """The type in which the converter changes nothing."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return _OUTTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), "f32")


def _made(out: Path, names: Sequence[str], programs: Sequence[str]) -> Made:
    file = read(out)
    return Made(
        types=kinds(file.tensors.values()),
        edited={name: kind_name(file.tensors[name].kind) for name in names},
        programs=tuple(programs),
    )
