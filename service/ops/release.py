"""The version of the program that runs."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def program_version() -> str:
    """The version of the program; ``0.0.0`` where it runs from a checkout."""
    try:
        return version("jeep-edit")
    except PackageNotFoundError:
        return "0.0.0"
