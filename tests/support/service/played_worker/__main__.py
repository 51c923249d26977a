"""Stands for a worker's process: it writes its id, then does as the files in its store say."""

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
