"""Suites on the Hugging Face hub, where ``huggingface_hub`` is installed and a network is.

A hub id is ``hub:owner/name`` or ``hub:owner/name/path/to/file.json``; without a path the data
set must have one file of a format that suites come in.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from jeep_core.errors import JeepError
from jeep_core.storage.hub import can_be_asked

SCHEME = "hub:"
SUFFIXES = (".json", ".jsonl", ".csv")


def hub_file(reference: str, cache: Path | None = None, local_only: bool = False) -> Path:
    """The local copy of a suite's file on the hub, fetched if it is not in the cache.

    ``local_only``: never ask the network.

    Raises:
        JeepError: no such id, several files to choose from, no network, or not installed.
    """
    owner, name, *inside = [*reference.removeprefix(SCHEME).split("/", 2), ""][:3]
    path = inside[0] if inside else ""
    if not owner or not name:
        raise JeepError(f"{reference}: a hub id is hub:owner/name or hub:owner/name/path/to/file")
    try:
        hub = import_module("huggingface_hub")
    except ImportError:
        raise JeepError(f"{reference}: pip install huggingface_hub, or name a file") from None
    try:
        folder = Path(
            hub.snapshot_download(
                f"{owner}/{name}",
                repo_type="dataset",
                allow_patterns=[path] if path else [f"*{suffix}" for suffix in SUFFIXES],
                cache_dir=cache,
                local_files_only=local_only or not can_be_asked(),
            )
        )
    except Exception as error:  # a library with many: wrong id, no network, no access
        raise JeepError(f"{reference} cannot be fetched: {error}") from error
    return _chosen(folder, path, reference)


def _chosen(folder: Path, path: str, reference: str) -> Path:
    if path:
        if not (folder / path).is_file():
            raise JeepError(f"{reference}: the data set has no file {path!r}")
        return folder / path
    files = sorted(f for f in folder.rglob("*") if f.suffix in SUFFIXES and f.is_file())
    if len(files) != 1:
        names = ", ".join(str(f.relative_to(folder)) for f in files) or "none"
        raise JeepError(f"{reference}: name one of its files ({names})")
    return files[0]
