"""What memory, file descriptors or a disk keep from being read now is not said to be damaged."""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from jeep_core.editors import plugins
from jeep_core.editors.networks import records, storage
from jeep_core.errors import ModelNotFetched, UnsupportedModel
from jeep_core.evaluation.harness import tasks
from jeep_core.models.checkpoints import source
from jeep_core.models.checkpoints.files import read_headers
from jeep_core.moments import cache, published
from jeep_core.moments.cache import Moments
from jeep_core.moments.sums import MomentSums
from jeep_core.spec import hparams
from jeep_core.storage.files import load_whole, read_record, save_whole

STALE = OSError(errno.ESTALE, "Stale file handle")
NO_MEMORY = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
Fail = Callable[[Exception, Any, str], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Let a function of a module or class raise."""

    def failing(error: Exception, where: Any, name: str) -> None:
        def call(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(where, name, call)

    return failing


@contextmanager
def no_descriptors() -> Iterator[None]:
    """No file can be opened in the block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def load_tasks(path: Path) -> None:
    tasks.load_tasks([SimpleNamespace(root=path.parent, file=path.name)], path.parent)  # type: ignore[list-item]


def network(path: Path) -> None:
    spec: Any = SimpleNamespace(editor="mend")
    storage._network_of(None, spec, b"", path)  # type: ignore[arg-type]


def imported(path: Path) -> None:
    one = published.Imported(path.parent, "mine")
    base: Any = SimpleNamespace(model_hash="0" * 64)
    one.path(base, 1).parent.mkdir(parents=True)
    one.path(base, 1).touch()
    one.provenance(base, 1)


def kept_moment(path: Path) -> None:
    moments = Moments.__new__(Moments)
    base = SimpleNamespace(device_of=lambda layer: torch.device("cpu"))
    memory = SimpleNamespace(shared=lambda key, make: make())
    moments.base, moments.imported, moments.key = base, None, lambda layer: "0" * 64  # type: ignore
    moments._factors = SimpleNamespace(memory=memory)  # type: ignore[assignment]
    _ = moments._kept(1, path).moment


READS: dict[str, tuple[Any, str, Callable[[Path], object]]] = {
    "published": (np, "load", published._read),
    "imported": (published, "read_record", imported),
    "sums": (MomentSums, "__init__", MomentSums.load),
    "moment": (cache, "load_whole", kept_moment),
    "network": (storage, "create_network", network),
    "record": (Path, "read_bytes", records.read_record),
    "task": (tasks, "_loaded", load_tasks),
    "preset": (hparams, "_read_preset", lambda path: hparams._preset_of("mine", path)),
}


@pytest.mark.parametrize("error", [STALE, NO_MEMORY], ids=["disk", "memory"])
@pytest.mark.parametrize("name", READS)
def test_it_is_told_as_it_is(
    tmp_path: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    where, function, read = READS[name]
    path = tmp_path / "file.npz"
    np.savez(path, one=np.zeros(1))
    if name == "sums":
        save_whole(path, {}, {"keys": {}, "count": 0, "parts": [], "of": 1, "batches": 0})
    if name == "task":
        monkeypatch.setattr(tasks, "installed_version", lambda: "0")
        module = SimpleNamespace(TaskManager=lambda **_: None)
        monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace(tasks=module))
        monkeypatch.setitem(sys.modules, "lm_eval.tasks", module)
    fail(error, where, function)
    with pytest.raises(type(error)) as caught:
        read(path)
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (MemoryError(), False),
        (OSError(errno.EMFILE, "Too many open files"), False),
        (ConnectionRefusedError(errno.ECONNREFUSED, "of the editor's own"), True),
        (ImportError("no such module"), True),
    ],
    ids=repr,
)
def test_an_editor_is_broken_by_what_is_its_own(
    monkeypatch: pytest.MonkeyPatch, error: Exception, broken: bool
) -> None:
    def load(_: EntryPoint) -> None:
        raise error

    entry = EntryPoint("mine", "mine:RECORD", plugins.GROUP)
    monkeypatch.setattr(plugins, "registered", lambda: {"mine": [entry]})
    monkeypatch.setattr(plugins, "_origin", lambda entry: "mine 1.0")
    monkeypatch.setattr(EntryPoint, "load", load)
    with pytest.raises(plugins.BrokenEditor if broken else type(error)):
        plugins.plugin("mine")


def test_a_lack_of_descriptors_is_no_missing_or_damaged_file(tmp_path: Path) -> None:
    """The safetensors library says that there is no such file."""
    path = tmp_path / "model.safetensors"
    save_whole(path, {"w": torch.zeros(2)})
    for read in (load_whole, read_record, lambda path: read_headers(path.parent)):
        with pytest.raises(OSError) as caught, no_descriptors():  # noqa: PT011 - its number is
            read(path)
        assert caught.value.errno == errno.EMFILE
    path.unlink()
    with pytest.raises(FileNotFoundError):
        load_whole(path)


def answer(status: int) -> HfHubHTTPError:
    request = httpx.Request("GET", "https://hub.example/a/b")
    return HfHubHTTPError(f"{status}", response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (LocalEntryNotFoundError("not there"), ModelNotFetched),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), ModelNotFetched),
        (httpx.ConnectError("no route"), ModelNotFetched),
        (httpx.ReadTimeout("slow"), ModelNotFetched),
        (RuntimeError("CAS service error: request failed after 5 retries"), ModelNotFetched),
        (answer(503), ModelNotFetched),
        (answer(429), ModelNotFetched),
        (answer(403), UnsupportedModel),
        (ValueError("no such name can be"), UnsupportedModel),
        (PermissionError(errno.EACCES, "Permission denied"), UnsupportedModel),
        (RuntimeError("std::bad_alloc"), MemoryError),
    ],
    ids=repr,
)
def test_a_hub_that_is_away_says_nothing_of_a_model(
    monkeypatch: pytest.MonkeyPatch, error: Exception, wanted: type[Exception]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(wanted), source._from_hub("a/b", "there is no folder a/b here"):
        raise error


@pytest.mark.parametrize("name", ["ENOSPC", "EMFILE", "ESTALE"])
def test_a_download_without_room_keeps_its_number(name: str) -> None:
    number = getattr(errno, name)
    with pytest.raises(OSError) as caught, source._from_hub("a/b", "there is no folder a/b here"):  # noqa: PT011
        raise OSError(number, os.strerror(number), "blob")
    assert caught.value.errno == number


def test_a_hub_that_is_not_to_be_asked_is_a_matter_of_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnsupportedModel), source._from_hub("a/b", "there is no folder a/b here"):
        raise LocalEntryNotFoundError("not there")


def test_a_name_without_an_owner_that_no_hub_was_asked_about_is_refused_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder's name, mistyped where there is no network: a service must not try for ever."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(source, "can_be_asked", lambda: False)
    with pytest.raises(UnsupportedModel, match="did you mean 'smollm2-135m'"):
        source.fetched("smolm2-135", ["smollm2-135m"])
    with pytest.raises(ModelNotFetched):
        source.fetched("owner/smolm2-135")
