"""All settings of the service, and how they are read."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic import ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from jeep_core.errors import UnsupportedModel
from jeep_core.models.placement.device_map import DEVICE, HOW, check_form, is_map
from jeep_core.spec.naming import in_plain_words
from service.settings.environment import PREFIX, SettingsError, is_loopback
from service.settings.fields.editing import EditingFields
from service.settings.fields.executing import ExecutorFields
from service.settings.fields.limits import LimitFields
from service.settings.fields.serving import ServingFields
from service.settings.fields.working import WorkingFields

_SCHEMES = ("redis://", "rediss://", "unix://")
_CREDENTIALS = re.compile(r"(?<=//).*(?=@)|(?<=[?&]password=)[^&']*")
"""User and password of an address, which nothing prints."""
_SECRETS = "/run/secrets"
"""Where containers find their secrets, as files."""


class Settings(ExecutorFields, WorkingFields, LimitFields, EditingFields, ServingFields):
    """Everything that can be configured.  An empty variable counts as not set.

    A setting without a variable is read from the file of its name (``jeep_redis_password``) among
    the secrets of a container or of a systemd unit, if there is one.

    Use ``load_settings`` where the message is shown to a person: it names the variable.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", allow_inf_nan=False
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
        try:
            _ = urlsplit(url or "").port
        except ValueError:  # whose message may show a part of a password
            raise ValueError(
                "its port is no number: characters such as / and # of a password must be "
                "percent-encoded, or set JEEP_REDIS_PASSWORD"
            ) from None
        return url

    @field_validator("store_url")
    @classmethod
    def _plain_address(cls, url: str | None) -> str | None:
        if url is not None and re.search("[@?#]", url):
            raise ValueError(
                "must be an address without user, password, query and fragment: the key is "
                "JEEP_STORE_KEY"
            )
        return url

    @field_validator("device")
    @classmethod
    def _known_device(cls, text: str) -> str:
        if is_map(text):
            try:
                check_form(text, DEVICE)
            except UnsupportedModel as error:
                raise ValueError(str(error)) from None
        elif not re.fullmatch(f"auto|{DEVICE}", text):
            raise ValueError(f"must be auto, cpu, mps, cuda, cuda:1 and so on; for several, {HOW}")
        return text

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


def load_settings(**overrides: Any) -> Settings:
    """The environment's settings under ``overrides`` (flags; None: not given).

    Raises ``SettingsError``, one line per wrong setting.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("\n".join(map(_line, error.errors(include_url=False)))) from None


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
    """``JEEP_PORT: must be …``; checks across settings name theirs themselves."""
    message = in_plain_words(detail)
    if not detail["loc"]:
        return message
    got = _CREDENTIALS.sub("…", repr(detail["input"]))
    return f"{PREFIX}{str(detail['loc'][0]).upper()}: {message} (got {got})"
