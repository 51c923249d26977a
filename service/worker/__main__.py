"""``python -m service.worker``: settings from the environment."""

from __future__ import annotations

import sys

from service.settings import SettingsError, load_settings
from service.worker.failures import exit_code
from service.worker.process import main

if __name__ == "__main__":
    try:
        settings = load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(exit_code(error))
    sys.exit(main(settings))
