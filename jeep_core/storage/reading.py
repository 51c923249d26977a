"""Opening safetensors files, with the operating system's own error where that cannot be done."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open


@contextmanager
def reader(path: Path, framework: str = "pt") -> Iterator[Any]:
    """Safetensors' reader of a file.

    Whatever keeps that library from opening a file, it says that there is none.

    Raises:
        SafetensorError, OSError: the file cannot be read.
    """
    with path.open("rb"):  # says itself why it cannot be opened
        try:
            opened = safe_open(path, framework)
        except FileNotFoundError:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path)) from None
    with opened as file:
        yield file
