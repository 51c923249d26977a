"""Settings of commands, and of libraries that have variables of their own."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.settings.environment import PREFIX, SettingsError

_TOKEN = re.compile(r"[!-~]+")
"""What a header can hold: ASCII that is seen."""


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


def _secret(variable: str, path: Path) -> str:
    """The text of a secret file; ``variable`` has named it."""
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise SettingsError(f"{variable}: {path}: {reason}") from error


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
