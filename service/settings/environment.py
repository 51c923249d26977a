"""Names, folders and codes that settings and their readers share."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from jeep_core.errors import Coded

PREFIX = "JEEP_"
EXIT_CONFIG = 78
"""Exit code (EX_CONFIG) of a worker that cannot work as configured: it is not started again."""
EXIT_AGAIN = 75
"""Exit code (EX_TEMPFAIL) of a process that is to be started again: another store lies in its
folder; a follower's also if its decoding or its job hangs, or the api broke off while it joined."""
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


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting is a secret: given by a variable or a file, never by a flag."""
    return SecretStr in (field.annotation, *get_args(field.annotation))


def default_models() -> Path:
    """The model directory where none is set: among the data of the user (XDG_DATA_HOME)."""
    data = os.environ.get("XDG_DATA_HOME", "")
    home = Path(data) if Path(data).is_absolute() else Path("~/.local/share")
    return home / "jeep" / "models"


def trusted_proxies() -> str:
    """The addresses whose forwarded headers are believed (``FORWARDED_ALLOW_IPS``), usually none.

    The variable is uvicorn's, and its server believes 127.0.0.1 where it is not set: any program
    of this machine could then say where a request came from, and so pass limits by address.
    """
    return os.environ.get("FORWARDED_ALLOW_IPS", "").strip()


class SettingsError(Coded, ValueError):
    """A setting has an invalid value; the message names it as ``JEEP_…``."""

    code = "invalid_settings"
