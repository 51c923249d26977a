"""Stands in for the worker process: writes down its process id, then does what it is told."""

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
