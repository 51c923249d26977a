"""Settings: the only reader of the environment (``JEEP_STORE``, ``JEEP_MODEL``, …)."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from jeep_core.errors import Coded

PREFIX = "JEEP_"
EXIT_CONFIG = 78
"""Exit code (EX_CONFIG) of a worker that cannot work as configured: it is not started again."""
CLIENT_VARIABLES = ("JEEP_API_KEY", "JEEP_KEY_FILE", "JEEP_HUB_ENDPOINT", "JEEP_HUB_TOKEN_FILE")
"""Only for commands that talk to a service; a worker has no use for them."""
WORKER_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "TQDM_DISABLE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
"""For a worker's process, where not set.

OpenMP reads its variable before any setting is read, and threads that spin while they have nothing
to do would take the cores from the other lane.  The progress bars of lm-eval and of what it reads
data with would be lines of the worker's log that no program can read.
"""
_SCHEMES = ("redis://", "rediss://", "unix://")
_TOKEN = re.compile(r"[!-~]+")
"""What a header can hold: ASCII that is seen."""
_SECRETS = "/run/secrets"
"""Where containers find their secrets, as files."""


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def default_models() -> Path:
    """The model directory where none is set: among the data of the user (XDG_DATA_HOME)."""
    data = os.environ.get("XDG_DATA_HOME", "")
    home = Path(data) if Path(data).is_absolute() else Path("~/.local/share")
    return home / "jeep" / "models"


class SettingsError(Coded, ValueError):
    """A setting has an invalid value; the message names it as ``JEEP_…``."""

    code = "invalid_settings"


class Settings(BaseSettings):
    """Everything that can be configured.  An empty variable counts as not set.

    A setting without a variable is read from the file of its name (``jeep_redis_password``) among
    the secrets of a container or of a systemd unit, if there is one.

    Use ``load_settings`` where the message is shown to a person: it names the variable.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", allow_inf_nan=False
    )

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
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$")] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    corpus: Path | None = Field(
        default=None, description="Text for second moments; default: one that ships."
    )
    presets: Path | None = Field(
        default=None, description="Folder of own presets, as jeep tune writes them."
    )
    llama_cpp: Path | None = Field(
        default=None,
        description="Folder of llama.cpp for exports as GGUF; default: the search path.",
    )
    relations: Path | None = Field(default=None, description="JSON: relation name → template.")
    moment_samples: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Tokens for second moments; default: 20 per key dimension, 8 of what ships.",
    )
    moments: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None = Field(
        default=None, description="Imported second moments to use instead of a corpus."
    )
    perplexity_text: Path | None = Field(
        default=None,
        description="Text, one document a line, for perplexities, drift and guards of both; "
        "default: that of the bundled models, for drift also one that ships.",
    )
    perplexity_tokens: Annotated[int, Field(ge=2)] = Field(
        default=4096, description="How much of that text is used."
    )
    lm_eval_tasks: Path | None = Field(
        default=None,
        description="Folder of own task files of lm-eval with their data; its !functions are run.",
    )
    check_earlier: Annotated[int, Field(ge=0)] = Field(
        default=8, description="Facts of earlier edits that are asked again after each edit."
    )
    factor_memory_mb: Annotated[int, Field(ge=1)] = Field(
        default=8192, description="Memory for second moments and their factors."
    )
    edit_memory_mb: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Bound on what value optimisation holds; default: none."
    )
    max_facts: Annotated[int, Field(ge=1)] = 10_000
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * 2**20
    max_suite_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=512 * 2**20, description="Largest suite that can be uploaded."
    )
    max_text_chars: Annotated[int, Field(ge=1)] = Field(
        default=16_384, description="Characters of one prompt, fact's text or candidate."
    )
    max_queue: Annotated[int, Field(ge=1)] = Field(
        default=1000, description="Jobs that have not ended."
    )
    max_streams: Annotated[int, Field(ge=1)] = Field(
        default=256, description="Event streams open at once."
    )
    keep_versions: Annotated[int, Field(ge=1)] = Field(
        default=20,
        description="Newest versions that keep their tensors; older ones without a name are "
        "rebuilt from their factors when they are needed.",
    )
    keep_exports: Annotated[int, Field(ge=1)] = Field(
        default=10,
        description="Newest exports whose files are kept; those in use are kept beside them.",
    )
    versions_in_memory: Annotated[int, Field(ge=1)] = Field(
        default=4, description="Versions whose edited matrices are held in memory."
    )
    max_store_mb: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Size of the store from which on no job starts; default: none."
    )
    min_free_mb: Annotated[int, Field(ge=0)] = Field(
        default=256, description="Free on the store's disk, else no job starts."
    )
    rate_per_minute: Annotated[float, Field(ge=0)] = Field(
        default=1200.0, description="Requests of one API key; 0: any number."
    )
    rate_burst: Annotated[int, Field(ge=1)] = Field(
        default=200, description="Requests of one API key at once."
    )
    targets_allow: str = Field(
        default="127.0.0.0/8,::1",
        description="Addresses and networks that targets and judges may have, with commas between.",
    )
    targets_secrets: Path | None = Field(
        default=None, description="Folder of files with the API keys of targets; default: none."
    )
    targets_timeout_s: Annotated[float, Field(gt=0)] = Field(
        default=120.0, description="How long a target may take to load a version."
    )
    max_targets: Annotated[int, Field(ge=0)] = Field(
        default=16, description="Targets that may be registered."
    )
    judge_address: Annotated[str, Field(pattern=r"^https?://[!-~]+$")] | None = Field(
        default=None,
        description="OpenAI-compatible server of a judge of free answers, such as "
        "http://127.0.0.1:8001/v1.",
    )
    judge_model: str | None = Field(
        default=None, description="Model that judges where a request names none."
    )
    judge_key: SecretStr | None = Field(
        default=None, exclude=True, description="Key of that server; sent to no other."
    )
    log_prompts: bool = Field(default=False, description="Write prompts and facts into the log.")
    max_prompts: Annotated[int, Field(ge=1)] = 256
    max_prompt_tokens: Annotated[int, Field(ge=1)] = 1024
    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    generate_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    lease_ms: Annotated[int, Field(ge=100)] = 30_000
    lease_renew_s: Annotated[float, Field(gt=0)] = 5.0
    job_tries: Annotated[int, Field(ge=1)] = 3
    idempotency_hours: Annotated[float, Field(gt=0)] = 24.0
    threads: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Threads of an edit's matrix products; default: all that cgroups allow.",
    )
    decode_threads: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Threads of decoding; default: 1 for small models."
    )
    edit_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="Share of the time that an edit keeps while others generate."
    )
    read_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.2, description="Share of the time that a reading job keeps, likewise."
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = Field(
        default="text", description="json: one object a line, with request and job ids."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, the environment, secret files: the first that has a setting gives it."""
        secrets = SecretsSettingsSource(settings_cls, secrets_dir=_secret_folders())
        return init_settings, env_settings, secrets

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(_SCHEMES):
            raise ValueError(f"must start with one of {', '.join(_SCHEMES)}")
        return url

    @field_validator("corpus", "perplexity_text", "relations")
    @classmethod
    def _readable_file(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"{path} is not a file")
        return path

    @field_validator("targets_allow")
    @classmethod
    def _networks(cls, text: str) -> str:
        for part in text.split(","):
            ipaddress.ip_network(part.strip(), strict=False)
        return text

    @field_validator("presets", "llama_cpp", "lm_eval_tasks", "targets_secrets")
    @classmethod
    def _existing_folder(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_dir():
            raise ValueError(f"{path} is not a folder")
        return path

    @model_validator(mode="after")
    def _password_into_url(self) -> Settings:
        if self.redis_password is not None and self.redis_url is not None:
            password = self.redis_password.get_secret_value().strip()
            self.redis_url = _with_password(self.redis_url, password)
        return self

    @model_validator(mode="after")
    def _renewed_before_it_ends(self) -> Settings:
        if self.lease_renew_s * 1000 * 2 > self.lease_ms:
            raise ValueError("JEEP_LEASE_RENEW_S must be at most half of JEEP_LEASE_MS")
        return self

    @model_validator(mode="after")
    def _open_to_this_machine_only(self) -> Settings:
        if self.auth == "off" and not is_loopback(self.host):
            raise ValueError(
                f"JEEP_AUTH: off needs a loopback address (JEEP_HOST=127.0.0.1), not {self.host!r}"
                ": make API keys with jeep keys create instead"
            )
        return self

    def environment(self) -> dict[str, str]:
        """The environment variables that give a child process the same settings."""
        values = self.model_dump(mode="json", exclude_none=True)
        return {PREFIX + name.upper(): str(value) for name, value in values.items()}


class ClientSettings(BaseSettings):
    """Settings of commands that talk to a service, besides its address."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True)

    api_key: SecretStr | None = None
    key_file: Path | None = None

    def key(self) -> str | None:
        """The API key, from ``JEEP_API_KEY`` or else the file; None: there is none.

        Raises ``SettingsError`` for a file that cannot be read.
        """
        if self.api_key is not None:
            return self.api_key.get_secret_value().strip()
        return None if self.key_file is None else _secret("JEEP_KEY_FILE", self.key_file)


class HubSettings(BaseSettings):
    """Settings of commands that give files to a hub.  The token is read from its file only."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True)

    hub_endpoint: str = "https://huggingface.co"
    hub_token_file: Path | None = None

    def token(self) -> str:
        """The token.

        Raises ``SettingsError`` for none, for one that no header can hold, and for a file that
        cannot be read; no message has the token.
        """
        if self.hub_token_file is None:
            raise SettingsError("JEEP_HUB_TOKEN_FILE: name a file that holds a token of the hub")
        found = _secret("JEEP_HUB_TOKEN_FILE", self.hub_token_file)
        if not found:
            raise SettingsError(f"JEEP_HUB_TOKEN_FILE: {self.hub_token_file} is empty")
        if not _TOKEN.fullmatch(found):
            raise SettingsError(
                f"JEEP_HUB_TOKEN_FILE: {self.hub_token_file} must hold one token alone: there are "
                "spaces, line breaks or characters in it that a token cannot have"
            )
        return found


def load_settings(**overrides: Any) -> Settings:
    """The environment's settings under ``overrides`` (flags; None: not given).

    Raises ``SettingsError``, one line per wrong setting.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("\n".join(map(_line, error.errors(include_url=False)))) from None


def _secret(variable: str, path: Path) -> str:
    """The text of a secret file; ``variable`` has named it."""
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise SettingsError(f"{variable}: {path}: {reason}") from None


def trace_exporter() -> str | None:
    """The exporter of traces that OpenTelemetry's own variables ask for; None: no traces."""
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    default = "otlp" if any(os.environ.get(name) for name in names) else "none"
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or default
    if exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if exporter == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
        return "otlp_proto_" + protocol.partition("/")[0]
    return exporter


def _secret_folders() -> list[str]:
    """Folders of secret files that exist here; systemd names its own in the environment."""
    folders = (_SECRETS, os.environ.get("CREDENTIALS_DIRECTORY", ""))
    return [folder for folder in folders if folder and Path(folder).is_dir()]


def _with_password(url: str, password: str) -> str:
    """The URL of a server with the password, unless it has one already."""
    parts = urlsplit(url)
    if parts.password is not None:
        return url
    place = f"{quote(parts.username or '')}:{quote(password, safe='')}@"
    return parts._replace(netloc=place + parts.netloc.rpartition("@")[2]).geturl()


def _line(detail: Any) -> str:
    """``JEEP_PORT: Input should be …``; checks across settings name theirs themselves."""
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    return f"{PREFIX}{str(detail['loc'][0]).upper()}: {message} (got {detail['input']!r})"
