"""``python -m service.worker``: settings from the environment."""

from __future__ import annotations

import sys

from service.settings import EXIT_CONFIG, SettingsError, load_settings
from service.worker.process import main

if __name__ == "__main__":
    try:
        settings = load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    sys.exit(main(settings))
