"""The registry of the formats that versions are exported in: one entry for each.

Both processes import it, so it names models and writers as ``module:name`` and imports none.
docs/extending.md lists the files of a new format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.contracts.kinds import SCHEMAS, load
from service.contracts.schemas.exports import ExportOptions

WRITERS = "service.worker.exports"


@dataclass(frozen=True)
class ExportFormat:
    """A format.

    ``options``: the model of the request's body, with ``format`` and what else can be chosen.
    ``writer``: the `service.worker.exports.writing.Writer` that makes the files and asks them.
    ``known_size``: what the api measures when an export is submitted: ``whole``, the base model's
    weights in the wanted ``dtype``, or ``changed``, the version's stored matrices; None: only the
    worker knows.  ``said`` completes "a version as …" for the description of the interface.
    """

    name: str
    options: str
    writer: str
    said: str
    known_size: Literal["whole", "changed"] | None = None

    def options_model(self) -> type[ExportOptions]:
        """The model of its options."""
        model: type[ExportOptions] = load(self.options)
        return model


FORMATS: dict[str, ExportFormat] = {
    one.name: one
    for one in (
        ExportFormat(
            "peft",
            f"{SCHEMAS}.exports:PeftExport",
            f"{WRITERS}.peft:WRITER",
            "an adapter (LoRA) that PEFT, transformers and vLLM put on the base model",
        ),
        ExportFormat(
            "merged",
            f"{SCHEMAS}.exports:MergedExport",
            f"{WRITERS}.merged:WRITER",
            "a whole model folder, as the base model's",
            known_size="whole",
        ),
        ExportFormat(
            "gguf",
            f"{SCHEMAS}.exports:GgufExport",
            f"{WRITERS}.gguf:WRITER",
            "a GGUF file, which llama.cpp is asked with",
        ),
        ExportFormat(
            "safetensors",
            f"{SCHEMAS}.exports:SafetensorsExport",
            f"{WRITERS}.safetensors:WRITER",
            "one file with the changed matrices",
            known_size="changed",
        ),
    )
}
