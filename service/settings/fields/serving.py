"""The model that is served, where, and to whom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from service.settings.environment import default_models


class ServingFields(BaseSettings):
    """The store, the model, the queue, the address, the device."""

    store: Path = Field(default=Path("jeep-store"), description="Directory of versions and jobs.")
    model: str = Field(
        default="atlas-gptj",
        description="Bundled name, local folder, GGUF file, hub id, or a name of jeep models.",
    )
    models: Path = Field(
        default_factory=default_models,
        description="The model directory: models by name, and converted GGUF files; default: "
        "jeep/models in XDG_DATA_HOME or ~/.local/share.",
    )
    redis_url: str | None = Field(default=None, description="None: an embedded server is started.")
    redis_password: SecretStr | None = Field(
        default=None, exclude=True, description="Becomes part of a JEEP_REDIS_URL without one."
    )
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    auth: Literal["keys", "off"] = Field(
        default="keys", description="off: no API keys, on a loopback address only."
    )
    console: Literal["on", "off"] = Field(default="on", description="The web console at /.")
    console_hours: Annotated[float, Field(gt=0, le=8760)] = Field(
        default=12.0, description="How long a sign-in to it lasts."
    )
    device: str = Field(
        default="auto",
        description="auto, cpu, mps, cuda or cuda:1; several for one model: balanced, or its "
        "blocks with their devices, as in 0-39@cuda:0,40-79@cuda:1.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
