"""The name of a base model in exported files: never a path of the machine that wrote them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

BASE_FOLDER = "BASE_FOLDER"
"""Stands for the folder of a base model that is on no hub, in programs that load an export."""
_OWNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*")
_CACHED = "models--"
"""Before the name of a model's folder in the hub's cache."""


@dataclass(frozen=True)
class BaseName:
    """A base model as other machines know it.

    ``text`` names it in words; ``hub_id`` is what a hub has it under, None if no hub is known to.
    """

    text: str
    hub_id: str | None = None

    @property
    def loaded_by(self) -> str:
        """The name by which a program loads it: the hub id, or `BASE_FOLDER`."""
        return self.hub_id or BASE_FOLDER

    @property
    def comment(self) -> str:
        """The line of a program that says what `BASE_FOLDER` is; empty for a model of a hub."""
        if self.hub_id is not None:
            return ""
        return (
            f"# {BASE_FOLDER} is the model folder of {self.text}; of a bundled model or a GGUF "
            f"file it is made by: jeep export base --format merged --out {BASE_FOLDER}\n"
        )


def base_name(name: str, folder: Path | None = None) -> BaseName:
    """The public name of a model that was loaded as ``name`` from ``folder``.

    A path is shortened to its last part.  A name is a hub id if its folder is in the hub's cache,
    or if it is OWNER/NAME and nothing is there under that path.
    """
    if (cached := _cached(folder)) is not None:
        return BaseName(cached, cached)
    if _OWNED.fullmatch(name) and not name.lower().endswith(".gguf") and not _is_here(name, folder):
        return BaseName(name, name)
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    if last in ("", ".", "..", "~"):
        last = "" if folder is None else folder.resolve().name
    return BaseName(" ".join(last.split()) or "model")


def _cached(folder: Path | None) -> str | None:
    """The hub id of a folder in the hub's cache."""
    if folder is None or folder.parent.name != "snapshots":
        return None
    whole = folder.parent.parent.name
    return whole.removeprefix(_CACHED).replace("--", "/") if whole.startswith(_CACHED) else None


def _is_here(name: str, folder: Path | None) -> bool:
    """Whether a name is a path on this machine."""
    path = Path(name)
    try:
        return path == folder or path.exists()
    except OSError:
        return False
