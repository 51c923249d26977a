"""The files of an earlier commit, for measuring one tree against another."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

HERE = Path(__file__).parents[1]


def tree_of(commit: str, folder: Path) -> Path:
    """The files of a commit, written into ``folder``.

    Raises:
        subprocess.CalledProcessError: there is no such commit.
    """
    packed = subprocess.run(
        ["git", "-C", str(HERE), "archive", commit], check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder
