"""Hyper-parameters: what the classes of all editors share, presets, checks against a model.

Symbols of the paper (Shi et al., AAAI 2025): ``clamp`` is γ, ``weight_decay`` β, ``kl_weight``
α', ``moment_weight`` λ (in samples).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from jeep_core.errors import FieldProblem, InvalidHParams, is_passing
from jeep_core.spec import exact
from jeep_core.spec.matrices import Measured, Place
from jeep_core.spec.naming import field_problems, known_names, one_line

PRESETS = Path(__file__).parent / "presets"
AUTO = "auto"
"""In place of a preset, or of hyper-parameters: they are chosen, although there may be presets."""
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Spread = Literal["sqrt", "linear"]
Contexts = Literal["plain", "chat", "both"]
"""How facts are asked while they are edited: as they are, through the chat template, or both."""
T = TypeVar("T", bound="EditorHParams")


class HParams(BaseModel):
    """Base: frozen, no unknown fields, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Region(HParams):
    """Consecutive layers whose MLP output projections are rewritten at one position.

    The value is optimised at the output of the last layer; ``spread`` is the divisor of the
    residual at layer l of a region ending at L: √(L-l+1) or L-l+1.
    """

    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    clamp: Positive = Field(description="γ: ‖δ‖ ≤ γ‖h‖")
    weight_decay: NonNegative = Field(0.5, description="β, times ‖δ‖/‖h‖²")
    moment_weight: Positive = Field(description="λ: weight of the second moment, in samples")
    spread: Spread = "linear"
    learning_rate: Positive | None = Field(
        default=None, description="Of this region's vector; default: that of the hyper-parameters"
    )
    null_space: Positive | None = Field(
        default=None,
        description="Write only where eigenvalues of the second moment are below this "
        "(its null space); moment_weight then is the ridge on what is left",
    )

    @field_validator("layers")
    @classmethod
    def _consecutive(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if list(layers) != list(range(layers[0], layers[0] + len(layers))):
            raise ValueError("layers must be consecutive and ascending, such as [3, 4, 5]")
        return layers

    @property
    def last(self) -> int:
        """The layer whose output is optimised."""
        return self.layers[-1]

    @property
    def places(self) -> list[Place]:
        """The matrices that are written, in order."""
        return list(self.layers)


class EditorHParams(HParams):
    """The interface of every editor's hyper-parameters."""

    @property
    def prefix_count(self) -> int:
        """How many prefixes the editor's rows have, the empty one included."""
        return 1

    @property
    def moment_layers(self) -> Sequence[Measured]:
        """The places whose second moments are needed."""
        return []

    def layer_problems(self, n_layers: int) -> list[FieldProblem]:
        """Problems of the layers in a model of ``n_layers``; pointers are relative."""
        raise NotImplementedError


class InContexts(EditorHParams):
    """Hyper-parameters of editors that can edit facts for the way they are asked."""

    both_for_chats: ClassVar[bool] = True
    """Whether facts of a model with a chat template are edited for both, unless it is said."""

    contexts: Contexts = Field(
        "plain",
        description="How facts are asked while they are edited: as they are (plain), through "
        "the model's chat template (chat), or both, which a model with a template gets by default",
    )


def for_model(
    cls: type[EditorHParams], values: Mapping[str, Any], chat: bool, pointer: str = "/hparams"
) -> Mapping[str, Any]:
    """Values with the contexts that are meant: those given, else both for a model of chats.

    ``chat``: the model has a chat template.

    Raises:
        InvalidHParams: facts shall be asked through a template, and the model has none.
    """
    if not issubclass(cls, InContexts):
        return values
    if chat:
        return {"contexts": "both", **values} if cls.both_for_chats else values
    if values.get("contexts") in ("chat", "both"):
        message = "the model has no chat template: facts can be edited as plain prompts only"
        raise InvalidHParams([FieldProblem(f"{pointer}/contexts", "no_chat_template", message)])
    return values


def contexts_of(hparams: EditorHParams) -> Contexts:
    """How facts are asked while they are edited with these hyper-parameters."""
    return hparams.contexts if isinstance(hparams, InContexts) else "plain"


def no_such_layer(pointer: str, layer: int, n_layers: int) -> FieldProblem:
    """A layer that the model does not have."""
    message = f"layer {layer} does not exist, the model has layers 0 to {n_layers - 1}"
    return FieldProblem(pointer, "no_such_layer", message)


class LayersHParams(InContexts):
    """Hyper-parameters of editors that write the MLP output projections of the layers they name."""

    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=1, description="The layers whose MLP output projections are written"
    )

    @field_validator("layers")
    @classmethod
    def _ascending(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if any(b <= a for a, b in pairwise(layers)):
            raise ValueError("layers must be ascending and distinct, such as [3, 4, 6]")
        return layers

    def layer_problems(self, n_layers: int) -> list[FieldProblem]:
        """The first layer that does not exist."""
        missing = [layer for layer in self.layers if layer >= n_layers]
        return [no_such_layer("/layers", layer, n_layers) for layer in missing[:1]]


class OptimisedEditorHParams(InContexts):
    """Hyper-parameters of every editor that optimises value vectors."""

    n_steps: int = Field(25, ge=1, le=1000, description="Forward passes, the last only measures")
    optimizer: Literal["adam", "newton"] = Field(
        "adam",
        description="How value optimisation steps: Adam as in the papers, or Newton's steps for "
        "the log-odds of the answer along the gradient",
    )
    learning_rate: Positive = Field(
        0.5, description="Of Adam; newton moves a vector of d numbers at most √d times as far"
    )
    kl_weight: NonNegative = 0.0625
    margin: Annotated[float, Field(gt=0, le=100, strict=True)] | None = Field(
        None,
        description="Nats by which every token of the new answer must lead all others before a "
        "fact stops, so that the answer holds when the version is quantised; default: none",
    )
    n_prefixes: int = Field(6, ge=1, le=64, description="The empty prefix counts as one")
    early_prefixes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Prefixes, the empty one first, after which a fact is asked until it would "
        "stop, for half of the steps at most, then after all; default: all from the first step on",
    )
    preserve_previous_edits: bool = Field(
        True, description="Add the keys of live earlier edits to the second moment"
    )

    norm_anchor: Annotated[bool, Field(strict=True)] | Annotated[float, Field(gt=0, le=10)] = Field(
        False,
        description="Bring the value at the subject to the mean norm of sample edits of the base "
        "model, or a multiple of it; a fact whose value has more than twice the mean norm is not "
        "edited there, and a warning counts such facts",
    )
    compute_dtype: Literal["model", "bfloat16"] = Field(
        "model", description="Type of the matrix products of value optimisation; δ is float32"
    )
    exact: Annotated[bool, Field(strict=True)] = Field(
        False,
        description="Optimise values as published, without anything that changes results for "
        "speed; what a preset or a probe has for speed gives way to it (docs/exact.md)",
    )

    @property
    def regions(self) -> dict[str, Region]:
        """The regions by name, in the order in which they are written."""
        raise NotImplementedError

    @property
    def prefix_count(self) -> int:
        """All of them."""
        return self.n_prefixes

    @property
    def moment_layers(self) -> list[Place]:
        """Those of the regions."""
        return [place for region in self.regions.values() for place in region.places]

    def layer_problems(self, n_layers: int) -> list[FieldProblem]:
        """Layers that do not exist, and values that no block would read."""
        problems = []
        for name, region in self.regions.items():
            where = f"/{name}/layers"
            if region.last >= n_layers:
                problems.append(no_such_layer(where, region.last, n_layers))
            elif region.last == n_layers - 1:
                message = (
                    "the last layer cannot be a region's end: nothing above it reads the value"
                )
                problems.append(FieldProblem(where, "last_layer", message))
        return problems


class LowRegionHParams(OptimisedEditorHParams):
    """Hyper-parameters of editors that write one region; a fact stops when its loss is small."""

    low: Region
    stop_loss: Positive = 0.05

    @property
    def regions(self) -> dict[str, Region]:
        """The one region."""
        return {"low": self.low}


@dataclass(frozen=True)
class Preset:
    """A set of hyper-parameters with the model it is for and where it comes from.

    ``dtype``: that of the weights it was found with, if that is known.  ``shape``: number of layers
    and hidden size of the model; another model of the same name is not meant.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    editor: str
    model: str
    origin: str
    hparams: dict[str, Any]
    dtype: str | None = None
    shape: tuple[int, int] | None = None


def load_preset(name: str, folder: Path | None = None) -> Preset:
    """A preset by its name: one of the user's ``folder``, or a shipped one.

    Raises:
        InvalidHParams: there is none of this name, or its file is not a preset.
    """
    files = _preset_files(folder)
    if name not in files:
        message = f"no preset {name!r}; {known_names(name, sorted(files))}"
        raise InvalidHParams([FieldProblem("/preset", "unknown_preset", message)])
    return _preset_of(name, files[name])


def _preset_of(name: str, path: Path) -> Preset:
    try:
        stat = path.stat()
        return _read_preset(name, path, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        if is_passing(error):
            raise
        message = f"{path} is not a preset: {one_line(error)}"
        raise InvalidHParams([FieldProblem("/preset", "bad_preset", message)]) from None


@lru_cache(maxsize=256)
def _read_preset(name: str, path: Path, changed_ns: int, size: int) -> Preset:
    """Read a file once, and again when it has changed."""
    raw = _SafeLoader(path.read_text(encoding="utf-8")).get_single_data()
    if not isinstance(raw, dict):
        raise ValueError("it is no mapping with editor, model, origin and hparams")
    return _PRESET.validate_python({"name": name, **raw})


_PRESET = TypeAdapter(Preset)
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where there is one: a worker reads all presets when it starts, eight times as fast."""


def _preset_files(folder: Path | None) -> dict[str, Path]:
    """Files by name; those of the user's folder hide shipped ones.

    Raises:
        InvalidHParams: ``folder`` is not a folder, or has a preset of a name that has a meaning.
    """
    if folder is not None and not folder.is_dir():
        message = f"{folder} is no folder of presets (--presets, JEEP_PRESETS)"
        raise InvalidHParams([FieldProblem("/preset", "bad_preset", message)])
    paths = [*PRESETS.glob("*.yaml"), *(folder.glob("*.yaml") if folder else ())]
    found = {path.stem: path for path in paths}
    if AUTO in found:
        message = f"{found[AUTO]}: no preset is called {AUTO}, which has them chosen: rename it"
        raise InvalidHParams([FieldProblem("/preset", "bad_preset", message)])
    return found


def preset_names(folder: Path | None = None) -> list[str]:
    """Names of the shipped presets and those of the user's folder."""
    return sorted(_preset_files(folder))


def presets_for(
    model: str, folder: Path | None = None, shape: tuple[int, int] | None = None
) -> list[Preset]:
    """Presets made for this model: the user's first, the plain ones before the variants.

    Names of models are compared without owner or folder and without case, so that a preset for
    a hub id also serves a local copy.  With the model's ``shape``, its number of layers and hidden
    size, presets that were found with another one are left out.
    """
    presets = [_preset_of(name, path) for name, path in sorted(_preset_files(folder).items())]
    found = [
        preset
        for preset in presets
        if bare_name(preset.model) == bare_name(model) and shape in (None, preset.shape or shape)
    ]
    shipped = {path.stem for path in PRESETS.glob("*.yaml")}
    return sorted(found, key=lambda p: (p.name in shipped, len(p.name), p.name))


def bare_name(model: str) -> str:
    """A model's name without owner or folder and without case, as names are compared."""
    return Path(model).name.casefold()


def nested(path: str, value: Any) -> dict[str, Any]:
    """``{"low": {"clamp": 1}}`` for ``low.clamp``, to be merged with hyper-parameters."""
    first, _, rest = path.partition(".")
    return {first: nested(rest, value) if rest else value}


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, mappings merged key by key."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def validate_hparams(
    cls: type[T],
    values: Mapping[str, Any],
    n_layers: int,
    pointer: str = "/hparams",
) -> T:
    """Hyper-parameters of class ``cls`` whose layers exist in a model of ``n_layers`` layers.

    Raises:
        InvalidHParams: with a pointer per wrong field.
    """
    problems = exact.no_value_search(cls, values)
    if not problems:
        try:
            hparams = cls.model_validate(values)
        except ValidationError as error:
            raise InvalidHParams(field_problems(cls, error, values, pointer)) from None
        problems = exact.contradictions(hparams) + hparams.layer_problems(n_layers)
    if problems:
        raise InvalidHParams([replace(one, pointer=pointer + one.pointer) for one in problems])
    return hparams
