"""Settings: the only reader of the environment (``JEEP_STORE``, ``JEEP_MODEL``, …).

What belongs here: ``fields/`` has the settings by subject, ``joined.py`` all of the service's,
``programs.py`` those of commands, ``environment.py`` what their readers share.
"""

from service.settings.environment import (
    CLIENT_VARIABLES,
    EXIT_AGAIN,
    EXIT_CONFIG,
    PREFIX,
    WORKER_ENVIRONMENT,
    SettingsError,
    default_models,
    is_loopback,
    is_secret,
    trusted_proxies,
)
from service.settings.joined import Settings, load_settings
from service.settings.programs import ClientSettings, HubSettings, trace_exporter

__all__ = [
    "CLIENT_VARIABLES",
    "EXIT_AGAIN",
    "EXIT_CONFIG",
    "PREFIX",
    "WORKER_ENVIRONMENT",
    "ClientSettings",
    "HubSettings",
    "Settings",
    "SettingsError",
    "default_models",
    "is_loopback",
    "is_secret",
    "load_settings",
    "trace_exporter",
    "trusted_proxies",
]
