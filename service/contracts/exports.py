"""The registry of the formats that versions are exported in: one entry for each.

Both processes import it, so it names models and writers as ``module:name`` and imports none.
docs/extending.md lists the files of a new format.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.contracts.kinds import SCHEMAS, load
from service.contracts.schemas.exports import ExportOptions

WRITERS = "service.worker.exports"


@dataclass(frozen=True)
class ExportFormat:
    """A format.

    ``options``: the model of the request's body, with ``format`` and what else can be chosen.
    ``writer``: the `service.worker.exports.writing.Writer` that makes the files and asks them.
    ``whole``: all weights are written, not the changed ones alone.  ``said`` completes "a version
    as …" for the description of the interface.
    """

    name: str
    options: str
    writer: str
    said: str
    whole: bool = False

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
            whole=True,
        ),
        ExportFormat(
            "safetensors",
            f"{SCHEMAS}.exports:SafetensorsExport",
            f"{WRITERS}.safetensors:WRITER",
            "one file with the changed matrices",
        ),
    )
}
