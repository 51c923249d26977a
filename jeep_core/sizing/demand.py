"""The demand: an editor with its layers and steps, a batch of facts, and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jeep_core.editors import hparams_class, preset_hparams, record_of
from jeep_core.editors.networks.hparams import HypernetworkHParams
from jeep_core.editors.presets import own_presets
from jeep_core.editors.record import Following
from jeep_core.editors.search import start
from jeep_core.errors import FieldProblem, InvalidHParams
from jeep_core.moments.source import TOKENS_OF_DEFAULT
from jeep_core.probe.defaults.from_record import asked_for, by_depths
from jeep_core.sizing.architecture import Architecture
from jeep_core.spec.exact import as_published, asks_for
from jeep_core.spec.hparams import (
    EditorHParams,
    OptimisedEditorHParams,
    merge,
    validate_hparams,
)
from jeep_core.spec.matrices import AttentionOut
from jeep_core.values.defaults import facts_together


@dataclass(frozen=True)
class Written:
    """A region that is written: its layers, the last of which is optimised.

    ``attention``: whether the attention's output projections are written, not the MLPs'.
    ``at_subject``: whether keys are read at the subject's last token, not at the prediction.
    """

    name: str
    layers: tuple[int, ...]
    attention: bool
    at_subject: bool


@dataclass(frozen=True)
class Editing:
    """As much of an editor's hyper-parameters as counts.

    ``passes``: forward passes of value optimisation for a fact, or passes over all facts, at most.
    ``rows``: of a fact, one for each prefix.  ``follows``: None where values are optimised.
    ``one_by_one``: facts are written one after the other (ROME); ``alone``: their values are
    optimised one after the other (``exact``).
    ``null_space``: whether second moments are taken apart into eigenvectors (AlphaEdit).
    ``bfloat16``: whether products are taken in that type.
    """

    editor: str
    regions: tuple[Written, ...]
    rows: int
    passes: int
    one_by_one: bool = False
    alone: bool = False
    null_space: bool = False
    bfloat16: bool = False
    follows: Following | None = None

    @property
    def together(self) -> bool:
        """Whether values of several facts are optimised at a time."""
        return not (self.one_by_one or self.alone)

    @property
    def takes_moments(self) -> bool:
        """Whether second moments of keys are taken."""
        return self.follows is None or self.follows.projected

    @property
    def first(self) -> int:
        """The first block that is written."""
        return min(region.layers[0] for region in self.regions)

    @property
    def low_last(self) -> int:
        """The block whose output is optimised."""
        return self.regions[0].layers[-1]

    @property
    def last(self) -> int:
        """The last block that is written."""
        return max(region.layers[-1] for region in self.regions)

    @property
    def matrices(self) -> list[bool]:
        """The matrices that are written: whether each is one of the attention."""
        return [region.attention for region in self.regions for _ in region.layers]


@dataclass(frozen=True)
class Workload:
    """The batch and its tokens, and who else asks.

    Tokens of a fact's row: ``prefix`` of the sampled text before the prompt, ``left`` of the
    prompt before its subject's last token, ``segment`` from there on to the last that is read,
    at which ``answer`` tokens are predicted.  ``clients`` are answered at once, each with
    ``context`` tokens of prompt and answer.  ``earlier``: facts edited before, whose keys are kept.
    ``samples``: tokens of text for second moments; 0: ``per_dimension`` for each of the keys',
    by default as many as of the text that ships.
    """

    facts: int = 1
    prefix: float = 13
    left: float = 4
    segment: float = 7
    answer: float = 1
    clients: int = 8
    context: int = 1024
    earlier: int = 0
    samples: int = 0
    per_dimension: int = TOKENS_OF_DEFAULT

    @property
    def tokens(self) -> float:
        """Tokens of a row without its prefix."""
        return self.left + self.segment

    def text_tokens(self, d_ff: int) -> int:
        """Tokens of text for second moments of keys of this size."""
        return self.samples or self.per_dimension * d_ff


@dataclass(frozen=True)
class Settings:
    """Settings that memory depends on.

    ``dtype``: type of the weights.  ``device``: cuda or cpu.  ``versions``: held in memory
    beside the one that is made.  ``factor_bytes``, ``edit_bytes``: bounds on second moments with
    their factors, and on value optimisation (None: none).  ``layers_at_once``: whose second
    moments one pass sums; None: all in the edit itself, a number: before, by a command of its own,
    0: that, on the CPU.
    """

    dtype: str
    device: str = "cuda"
    versions: int = 4
    factor_bytes: int = 8192 * 2**20
    edit_bytes: int | None = None
    layers_at_once: int | None = None

    @property
    def on_cpu(self) -> bool:
        """Whether second moments are taken on the CPU, whatever the device."""
        return self.layers_at_once == 0

    def together(self, facts: int) -> int:
        """Facts that are optimised together at most."""
        return min(facts, facts_together(self.device))


def editing_of(
    arch: Architecture,
    model: str,
    editor: str,
    *,
    preset: str | None = None,
    changes: Mapping[str, Any] | Literal["auto"] | None = None,
    facts: int = 1,
    dtype: str | None = None,
    presets: Path | None = None,
) -> Editing:
    """The layers and steps of an editor.

    A model without a preset gets those at which a search for one begins: the paper's depths.

    Args:
        arch: the model's sizes.
        model: its name, for presets.
        editor: name of the editor.
        preset: name of a preset, whatever its model; or ``"auto"``: automatic hyper-parameters,
            by fractions of the depth, as there is no probe.
        changes: hyper-parameters laid over it, field by field; or ``"auto"``, as for the preset.
        facts: how many are edited together.
        dtype: type of the weights; of a float32 model without a preset, automatic hyper-parameters
            take products in bfloat16, as GPUs are quick at them.
        presets: folder of own presets, taken before those shipped.

    Raises:
        InvalidHParams: no such editor or preset, layers the model lacks, ``"auto"`` for an editor
            without automatic hyper-parameters, or an editor whose record does not say how it
            follows gradients.
    """
    cls, record = hparams_class(editor), record_of(editor)
    if not issubclass(cls, OptimisedEditorHParams) and record.follows is None:
        message = (
            f"the memory and time of {editor} are not counted: it optimises no values, and its "
            "record does not say how it follows gradients (follows)"
        )
        raise InvalidHParams([FieldProblem("/editor", "not_counted", message)])
    automatic, given = asked_for(editor, preset, changes or {})
    known = own_presets(model, editor, preset, presets, (arch.layers, arch.d))
    # automatic hyper-parameters of a float32 model, which GPUs are quick at
    quick = {"compute_dtype": "bfloat16"} if "compute_dtype" in cls.model_fields else {}
    begin: dict[str, Any] = {} if dtype != "float32" else quick
    found: EditorHParams
    if automatic:
        begin = {} if asks_for(given) else begin
        found = by_depths(editor, arch.layers, arch.d_ff, {**begin, **given})
    elif known:
        found = preset_hparams(editor, known, preset, given, arch.layers)[1]
    else:
        begin = {**_start(editor, cls, arch.layers, facts), **begin}
        found = validate_hparams(cls, merge(as_published(cls, begin, given), given), arch.layers)
    if isinstance(found, OptimisedEditorHParams):
        return _editing(editor, found)
    assert record.follows is not None
    return _following(editor, found, record.follows(found))


def _start(editor: str, cls: type[EditorHParams], layers: int, facts: int) -> dict[str, Any]:
    """Where a search begins; editors with a network write the last layers."""
    if issubclass(cls, HypernetworkHParams):
        return {"layers": cls.last_layers(layers)}
    return start(editor, layers, facts)


def _following(editor: str, hparams: EditorHParams, follows: Following) -> Editing:
    """An editor that optimises no values."""
    region = Written("mlp", tuple(follows.layers), False, False)
    rows = max(1, hparams.prefix_count)
    bfloat16 = getattr(hparams, "compute_dtype", None) == "bfloat16"
    return Editing(editor, (region,), rows, follows.passes, bfloat16=bfloat16, follows=follows)


def _editing(editor: str, hparams: OptimisedEditorHParams) -> Editing:
    regions = tuple(
        Written(
            name,
            tuple(region.layers),
            any(isinstance(place, AttentionOut) for place in region.places),
            name == "low",
        )
        for name, region in hparams.regions.items()
    )
    return Editing(
        editor,
        regions,
        hparams.prefix_count,
        hparams.n_steps,
        one_by_one=record_of(editor).one_by_one,
        alone=hparams.exact,
        bfloat16=hparams.compute_dtype == "bfloat16",
        null_space=any(r.null_space is not None for r in hparams.regions.values()),
    )
