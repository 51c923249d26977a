"""Networks that editors need: training requests and trained networks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticKnownError

from jeep_core.editors import with_network
from service.contracts.schemas.base import Request
from service.contracts.schemas.reading import Imported

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


def _has_network(editor: str) -> str:
    """The name of an editor with a trained network; others are refused as a wrong literal."""
    known = with_network()
    if editor not in known:
        names = [repr(name) for name in known]
        expected = " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        raise PydanticKnownError("literal_error", {"expected": expected})
    return editor


class TrainingOptions(Request):
    """Settings of a training."""

    steps: int = Field(600, ge=1, le=1_000_000)
    facts: int = Field(16, ge=1, le=4096, description="Edits per step, made together.")
    learning_rate: Positive = 1e-3
    scalar_learning_rate: Positive = Field(0.05, description="Of log step sizes and log λ.")
    edit_weight: NonNegative = Field(0.1, description="Times the loss of the new answers.")
    unrelated_weight: NonNegative = Field(1.0, description="Times the KL on unrelated prompts.")
    clip: Positive = Field(1.0, description="Norm at which gradients are cut.")
    save_every: int = Field(50, ge=1, description="Steps between two checkpoints.")
    seed: int = Field(0, ge=0, lt=2**63)


class HypernetworkRequest(TrainingOptions):
    """``POST /hypernetworks``."""

    editor: Annotated[str, AfterValidator(_has_network)]
    preset: str | None = None
    hparams: dict[str, Any] = Field(
        default_factory=dict,
        description="Laid over the preset: layers, rank, n_blocks.  Edits need the same ones.",
    )
    data: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="Name of a suite's file in the store's folder `training`; default, "
        "for bundled models: counterfactuals about subjects that no suite edits.",
    )


class HypernetworkPayload(BaseModel):
    """Payload of a training job; ``hparams`` is complete."""

    editor: str
    preset: str | None
    hparams: dict[str, Any]
    options: TrainingOptions
    data: str | None
    data_sha256: str | None = None
    imported: Imported | None = None


class Network(BaseModel):
    """A trained network: what it fits, what it was trained on, how well it went.

    ``loss``: step, mean NLL of the new answers and mean KL on unrelated prompts since the entry
    before.  ``held_back``: the same on facts that it was not trained on, and the NLL before.
    """

    editor: str
    layers: list[int]
    rank: int
    n_blocks: int
    shipped: bool
    sha256: str
    data: str
    data_sha256: str | None = None
    triples: int = Field(description="Edits with their prompts that it was trained on.")
    settings: dict[str, int | float]
    seconds: float = Field(description="Time that training took.")
    held_back: dict[str, float] | None = None
    loss: list[tuple[int, float, float]]
