"""The bytes of tensors in a type: by the package gguf, by llama-quantize where that cannot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jeep_core.errors import NotExportable
from jeep_core.exports.gguf.repack import Content, write_only
from jeep_core.exports.gguf.tools import QUANTIZER, LlamaCpp
from jeep_core.models.gguf.blocks import F32, Array, encoded, kind_name, raw
from jeep_core.models.gguf.reader import Gguf, read
from jeep_core.monitor import NOTHING, Monitor


def contents(
    source: Gguf,
    values: Mapping[str, Array],
    kinds: Mapping[str, int],
    tools: LlamaCpp,
    scratch: Path,
    monitor: Monitor = NOTHING,
) -> dict[str, Content]:
    """New contents of the tensors of a file, each in the type that ``kinds`` names.

    ``values`` (rows, columns) or (n,), float32 in the file's order, by the file's names.  Types
    that the package gguf writes need no other program; K-quants and the like take
    llama-quantize, which works in the empty folder ``scratch``.

    Raises:
        MissingProgram: llama-quantize is needed and was not found.
        NotExportable: a number is not finite, or a type cannot be made.
        Whatever ``monitor.check`` raises.
    """
    found: dict[str, Content] = {}
    left: dict[str, Array] = {}
    for done, (name, numbers) in enumerate(values.items()):
        monitor.check()
        monitor.report("quantise", done, len(values))
        if not np.isfinite(numbers).all():
            raise NotExportable(f"the version holds NaN or infinity in {name}: take another one")
        rows = encoded(numbers.reshape(-1, numbers.shape[-1]), kinds[name])
        if rows is None:
            left[name] = numbers
        else:
            found[name] = Content(kinds[name], rows)
    if left:
        found |= _by_program(source, left, kinds, tools, scratch, monitor)
    return found


def _by_program(
    source: Gguf,
    values: Mapping[str, Array],
    kinds: Mapping[str, int],
    tools: LlamaCpp,
    scratch: Path,
    monitor: Monitor,
) -> dict[str, Content]:
    """The same by llama-quantize, on a file with the source's metadata and these tensors alone."""
    tools.needed(QUANTIZER)  # before anything is written
    plain, out = scratch / "plain.gguf", scratch / "quantised.gguf"
    as_bytes = {
        name: Content(F32, numbers.reshape(-1, numbers.shape[-1]).view(np.uint8))
        for name, numbers in values.items()
    }
    write_only(plain, source, as_bytes)
    arguments: list[str] = []
    for name in values:
        arguments += ["--tensor-type", f"^{re.escape(name)}$={kind_name(kinds[name]).lower()}"]
    # Q8_0 is for what no option names, which is nothing; a plain type would turn the options off
    arguments += [str(plain), str(out), "Q8_0", "1"]
    tools.run(QUANTIZER, arguments, scratch / "quantise.log", monitor)
    made, found = read(out), {}
    for name in values:
        entry = made.tensors[name]
        if entry.kind != kinds[name]:
            raise NotExportable(
                f"{name} cannot be stored as {kind_name(kinds[name])}, llama-quantize made "
                f'{kind_name(entry.kind)} of it: export with "edited": "Q8_0" or "F16"'
            )
        found[name] = Content(entry.kind, np.array(raw(made, entry)))
    plain.unlink()
    out.unlink()
    return found
