"""Build the site: ``python -m tools.docs [FOLDER]``, by default in build/docs (``make docs``)."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from tools.docs.site import TEMPLATE, gather


def build(folder: Path) -> int:
    """Build the site in a folder; the generator's exit code, 0 if no page has a problem."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    gather(folder / "pages")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file"]
    code = subprocess.run([*command, TEMPLATE.name], cwd=folder, check=False).returncode
    if code == 0:
        print(f"the site is {folder / 'site' / 'index.html'}")
    return code


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/docs"))
    return build(parser.parse_args().folder)


if __name__ == "__main__":
    sys.exit(main())
