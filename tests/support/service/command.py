"""The command ``jeep`` as a client of a running api."""

import os
import subprocess
import sys


def jeep(url: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", *arguments, "--url", url]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=60, env=environment,
        check=False,
    )  # fmt: skip
