"""``python -m service.worker``: settings from the environment.

With ``--wait`` they are read from standard input once everything is imported.
"""

from __future__ import annotations

import sys

from service.ops.early_worker import WAIT, told_settings
from service.ops.garbage import postponed
from service.settings import SettingsError, load_settings

if __name__ == "__main__":
    with postponed(kept=True):
        from service.worker.failures import exit_code
        from service.worker.process import main

    if WAIT in sys.argv[1:] and not told_settings():
        sys.exit()
    try:
        settings = load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(exit_code(error))
    sys.exit(main(settings))
