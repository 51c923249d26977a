"""Replaces the worker process: writes its process id, then follows its script."""

import os
import sys
import time
from pathlib import Path

folder = Path(os.environ["JEEP_STORE"])
with (folder / "pids").open("a") as file:
    file.write(f"{os.getpid()}\n")
if (folder / "misconfigured").exists():
    sys.exit(78)
if (folder / "obliging").exists():
    sys.exit(0)
time.sleep(60)
