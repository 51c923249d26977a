"""``jeep store verify``: read everything, report what is damaged and what to do about it.

Works on a store in use.  Weights are compared with the model's when the worker loads a version.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from jeep_core.exports.folders import DamagedExport
from jeep_core.exports.folders import verify as check_export
from jeep_core.storage.looking import LOST_AND_FOUND, is_folder, is_plain_file, listed, present
from jeep_core.storage.records import unsealed
from service.contracts.jobs import Job
from service.contracts.schemas import Manifest, TensorRef, WorkerInfo
from service.contracts.schemas.access import ApiKey
from service.contracts.schemas.evaluation import SuiteInfo
from service.contracts.schemas.targets import TargetRecord, TargetState
from service.contracts.schemas.versions import Head
from service.store.errors import CorruptFile, CorruptTensor, MissingTensor, StoreError
from service.store.exports import FOLDER as EXPORTS
from service.store.files import NOT_A_FILE, Model, difference, read
from service.store.index.checking import difference as difference_of_index
from service.store.index.database import FOLDER as INDEX
from service.store.index.database import NoIndex
from service.store.maintenance.frames import what_is_wrong
from service.store.names import NameTable
from service.store.reports import HASHES, ReportHashes
from service.store.store import Store, StoreFormat, StoreIdentity, StoreModel
from service.store.targets.records import FOLDER as TARGETS
from service.store.versions import BASE, VERSION_ID, Counter, Thin

OR_SET_ASIDE = "; or move the version aside: jeep store verify --repair"
FROM_BACKUP = "take the file from a backup (jeep restore makes a store from one)"
LATER = (
    "it says nothing of what is in it: verify again once there are memory, file descriptors and a "
    "disk that answers; if it stays so, the disk is failing, or the user may not read the file"
)


@dataclass(frozen=True)
class Finding:
    """A damaged file, or one that cannot be read now: its path in the store, the error, and what
    to do."""

    path: str
    what: str
    advice: str


@dataclass
class Report:
    """The result of a verification: counts of what was read, and findings."""

    versions: int = 0
    thin: int = 0
    tensors: int = 0
    findings: list[Finding] = field(default_factory=list)


def verify(store: Store) -> Report:
    """Read and check every file of a store whose content can be verified."""
    return _Check(store).run()


class _Check:
    def __init__(self, store: Store) -> None:
        self._store, self._root = store, store.root
        self._report = Report()
        self._manifests: dict[str, Manifest] = {}
        self._bad: dict[str, str] = {}
        self._unread: set[Path] = set()
        self._unknown: set[str] = set()
        """Versions that may be whole: what refers to them is not wrong."""

    def run(self) -> Report:
        self._records()
        self._versions()
        self._tensors()
        self._chains()
        self._pointers()
        self._jobs()
        self._keys()
        self._suites()
        self._targets()
        self._reports()
        self._exports()
        self._base()
        self._index()
        return self._report

    def _index(self) -> None:
        if self._unknown:  # it cannot be compared with them
            return
        # the first: it is made again, or not used
        with suppress(NoIndex), self._reading(self._root / INDEX):
            found = difference_of_index(self._store)
            if found is not None:
                advice = "remove the folder index where nothing runs: it is made again"
                self._find(self._root / INDEX, found, advice)

    def _find(self, path: Path, what: str, advice: str) -> None:
        found = Finding(path.relative_to(self._root).as_posix(), what, advice)
        self._report.findings.append(found)

    def _parsed(self, path: Path, model: type[Model], advice: str) -> Model | None:
        """A JSON file; a damaged one, and one that cannot be read now, is a finding."""
        try:
            return read(path, model)
        except CorruptFile as error:
            self._find(path, str(error), advice)
        except OSError as error:
            self._not_now(path, error)
        return None

    def _listed(self, folder: Path, pattern: str, *, within: str | None = None) -> list[Path]:
        """As `listed`; a folder that cannot be looked at now is a finding beside the others."""
        if within is not None:
            inner = [path for path in self._listed(folder, within) if self._is(is_folder, path)]
            return [path for one in inner for path in self._listed(one, pattern)]
        with self._reading(folder):
            return listed(folder, pattern)
        return []

    def _is(self, kind: Callable[[Path], bool], path: Path) -> bool:
        """Whether a path is of a kind; False, and a finding, if it cannot be looked at now."""
        with self._reading(path):
            return kind(path)
        return False

    def _may_be_there(self, path: Path) -> bool:
        """As `present`; True, and a finding, if it cannot be looked at now."""
        with self._reading(path):
            return present(path)
        return True

    def _not_now(self, path: Path, error: OSError) -> None:
        """A finding about a file that may be whole; one, however often it is looked at."""
        if path in self._unread:
            return
        self._unread.add(path)
        self._find(path, f"cannot be read now: {error.strerror or error}", LATER)

    # ------------------------------------------------------------ records, versions, tensors

    def _records(self) -> None:
        root = self._root
        for name, model in (("format.json", StoreFormat), ("model.json", StoreModel)):
            self._parsed(root / name, model, FROM_BACKUP)
        self._parsed(root / "id.json", StoreIdentity, "remove it: a new id is made")
        advice = "remove it: numbers go on after the newest version"
        self._parsed(root / "counter.json", Counter, advice)
        advice = "start the worker: it publishes the model again"
        self._parsed(root / "model" / "info.json", WorkerInfo, advice)

    def _versions(self) -> None:
        for folder in sorted((self._root / "versions").iterdir()):
            if folder.name == LOST_AND_FOUND:
                continue
            if not VERSION_ID.fullmatch(folder.name):
                self._find(folder, "is no version", "move it away")
                continue
            path = folder / "manifest.json"
            advice = FROM_BACKUP if folder.name == BASE else FROM_BACKUP + OR_SET_ASIDE
            manifest = self._parsed(path, Manifest, advice)
            if manifest is None:
                if path in self._unread:
                    self._unknown.add(folder.name)
                elif not self._may_be_there(path):
                    self._find(path, "is missing", advice)
            elif manifest.id != folder.name:
                self._find(path, f"says that it is {manifest.id}", advice)
            else:
                self._manifests[manifest.id] = manifest
        self._report.versions = len(self._manifests)

    def _tensors(self) -> None:
        """Read every referenced tensor once."""
        checked: set[str] = set()
        for manifest in self._manifests.values():
            thin = self._thin(manifest)
            for ref in (*manifest.artifacts, *(thin.refs() if thin else ())):
                self._tensor(ref, checked, f"{FROM_BACKUP}; it is a part of {manifest.id}")
            for ref in manifest.tensors:
                path = self._store.tensors.path(ref.sha256)
                if not self._may_be_there(path) and self._was_dropped(manifest):
                    continue
                self._tensor(ref, checked, self._advice(manifest, ref))
        self._report.tensors = len(checked)

    def _thin(self, manifest: Manifest) -> Thin | None:
        path = self._root / "versions" / manifest.id / "thin.json"
        return self._parsed(path, Thin, FROM_BACKUP)

    def _was_dropped(self, manifest: Manifest) -> bool:
        return self._may_be_there(self._root / "versions" / manifest.id / "thin.json")

    def _tensor(self, ref: TensorRef, checked: set[str], advice: str) -> None:
        if ref.sha256 in checked:
            return
        checked.add(ref.sha256)
        try:
            for _ in self._store.tensors.chunks(ref):
                continue
            if not self._store.tensors.has(ref):
                raise CorruptTensor(f"tensor {ref.name} has another size than its manifest says")
        except CorruptTensor as error:
            self._bad[ref.sha256] = ref.name
            what = "is missing" if isinstance(error, MissingTensor) else f"is damaged: {error}"
            self._find(self._store.tensors.path(ref.sha256), what, advice)
        except OSError as error:
            self._not_now(self._store.tensors.path(ref.sha256), error)

    def _advice(self, manifest: Manifest, ref: TensorRef) -> str:
        if any(artifact.name[2:] == ref.name for artifact in manifest.artifacts):
            return f"move it away: the worker rebuilds this part of {manifest.id} from its factors"
        return f"{FROM_BACKUP}; until then roll back from {manifest.id} and what is built on it"

    def _chains(self) -> None:
        """Check that every version leads to the base, and dropped ones have all their factors."""
        for manifest in self._manifests.values():
            line = self._line(manifest)
            path = self._root / "versions" / manifest.id / "manifest.json"
            if line is None and self._unknown:
                continue
            if line is None:
                self._find(path, "its parents do not lead to v0", FROM_BACKUP)
                continue
            dropped = {r.name for r in manifest.tensors
                       if not self._may_be_there(self._store.tensors.path(r.sha256))}  # fmt: skip
            if not dropped or not self._was_dropped(manifest):
                continue
            self._report.thin += 1
            broken = [
                f"{one.id}: {ref.name}"
                for one in line
                for ref in one.artifacts
                if ref.sha256 in self._bad and ref.name[2:] in dropped
            ]
            if broken:
                self._find(path, f"cannot be rebuilt without {', '.join(broken)}", FROM_BACKUP)

    def _line(self, manifest: Manifest) -> list[Manifest] | None:
        line = [manifest]
        while (parent := line[-1].parent) is not None:
            if parent not in self._manifests or len(line) > len(self._manifests):
                return None
            line.append(self._manifests[parent])
        return line[::-1] if line[-1].id == BASE else None

    # ------------------------------------------------------------ pointers, jobs, files beside

    def _pointers(self) -> None:
        path = self._root / "head.json"
        advice, line_advice = FROM_BACKUP, FROM_BACKUP
        with suppress(StoreError, OSError):
            self._store.head.read()
            advice = (
                "start the worker: it takes head from the reflog; then see that head is the "
                "version meant, and roll back if it is not"
            )
            line_advice = (
                "remove the line that cannot be read: the reflog is a record, head is not in it"
            )
        head = self._parsed(path, Head, advice)
        there = self._manifests.keys() | self._unknown
        if head is None and self._manifests and not self._may_be_there(path):
            self._find(path, "is missing", advice)
        if head is not None and head.version not in there:
            self._find(path, f"names {head.version}, which is not there", advice)
        try:
            moves = self._store.head.reflog()
            known = {*there, *self._store.versions.set_aside()}
            unknown = sorted({move.to for move in moves} - known)
            if unknown:
                what = f"names {', '.join(unknown)}, which are not there"
                self._find(self._root / "reflog.jsonl", what, FROM_BACKUP)
        except StoreError as error:
            self._find(self._root / "reflog.jsonl", str(error), line_advice)
        except OSError as error:
            self._not_now(self._root / "reflog.jsonl", error)
        names = self._parsed(self._root / "names.json", NameTable, FROM_BACKUP)
        for name, version in (names.root if names else {}).items():
            if version not in there:
                what = f"{name!r} names {version}, which is not there"
                self._find(self._root / "names.json", what, FROM_BACKUP)

    def _jobs(self) -> None:
        advice = "take it from a backup, or remove it: the job is then unknown, versions stay"
        for path in self._listed(self._root / "jobs", "*.json"):
            job = self._parsed(path, Job, advice)
            if job is not None and job.id != path.stem:
                self._find(path, f"is the record of {job.id}", advice)

    def _keys(self) -> None:
        advice = "remove it: it opens nothing; make its owner a new one (jeep keys create)"
        for path in self._listed(self._root / "keys", "*.json"):
            self._parsed(path, ApiKey, advice)

    def _targets(self) -> None:
        advice = "remove it and what else begins with its name, and register the target again"
        folder = self._root / TARGETS
        for path in self._listed(folder, "*.json"):
            self._parsed(path, TargetRecord, advice)
        advice = "remove it: the worker asks the server what it has"
        for path in self._listed(folder, "*.state"):
            self._parsed(path, TargetState, advice)

    def _suites(self) -> None:
        advice = "remove both files of the suite and upload it again"
        for path in self._listed(self._root / "suites", "*.json"):
            info = self._parsed(path, SuiteInfo, advice)
            if info is not None:
                self._hashed(path.with_suffix(".data"), info.sha256, advice)

    def _reports(self) -> None:
        """Check files of evaluations and probes; reports of earlier releases have no hashes."""
        for path in self._listed(self._root / "reports", HASHES, within="*"):
            advice = f"remove the folder {path.parent.name} and submit the job again"
            found = self._parsed(path, ReportHashes, advice)
            for name, sha256 in (found.files if found else {}).items():
                self._hashed(path.with_name(name), sha256, advice)

    def _exports(self) -> None:
        advice = "remove it (jeep exports remove) and export the version again"
        exports: list[str] = []
        with self._reading(self._root / EXPORTS):
            exports = self._store.exports.all()
        for job_id in exports:
            try:
                check_export(self._store.exports.path(job_id))
            except DamagedExport as error:
                self._find(self._store.exports.path(job_id), str(error), advice)
            except OSError as error:
                self._not_now(self._store.exports.path(job_id), error)

    def _base(self) -> None:
        """Check prefixes, probes, networks, moments and factors; early releases wrote no hashes."""
        base = self._store.base
        again = "remove it: it is computed again"
        for path in (base.prefixes_file, *self._listed(base.probes_folder, "*.json")):
            with self._reading(path):
                if present(path) and not _is_json(path):
                    self._find(path, "is no JSON, or not what was written", again)
        for path in self._tensor_files(base.folder):
            record = path.with_suffix(".json")
            if path.is_relative_to(base.networks_folder) and self._may_be_there(record):
                self._network(path, record)
            else:
                with self._reading(path):
                    if what := what_is_wrong(path):
                        self._find(path, what, again)

    def _tensor_files(self, folder: Path) -> list[Path]:
        """As `files_below`, with findings as by `_listed`."""
        found: list[Path] = []
        for path in self._listed(folder, "*"):
            if self._is(is_folder, path) and not path.is_symlink():
                found += self._tensor_files(path)
            elif path.suffix == ".safetensors" and self._is(is_plain_file, path):
                found.append(path)
        return found

    def _network(self, path: Path, record: Path) -> None:
        advice = "remove both files of the network and train it again"
        try:
            sha256 = str(json.loads(unsealed(record.read_bytes().rstrip()))["sha256"])
        except (ValueError, KeyError, TypeError, *NOT_A_FILE):
            self._find(record, "is no record of a network", advice)
        except OSError as error:
            self._not_now(record, error)
        else:
            self._hashed(path, sha256, advice)

    def _hashed(self, path: Path, sha256: str, advice: str) -> None:
        with self._reading(path):
            what = difference(path, sha256)
            if what:
                self._find(path, what, advice)

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._not_now(path, error)


def _is_json(path: Path) -> bool:
    try:
        json.loads(unsealed(path.read_bytes()))
    except (ValueError, *NOT_A_FILE):
        return False
    return True
