"""A worker that something passing keeps from serving ends with a code that is tried again."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest
import torch

from jeep_core.errors import JeepError, ModelNotFetched, UnsupportedModel
from service.queue import QueueFailure
from service.settings import EXIT_AGAIN, EXIT_CONFIG, Settings, SettingsError
from service.store import (
    CorruptFile,
    NotAStore,
    NotFetched,
    StaleFence,
    Store,
    StoreReplaced,
    WrongModel,
)
from service.worker import input_files, process
from service.worker.failures import exit_code
from service.worker.members import common, follower
from service.worker.members.follower import Follower
from service.worker.members.publishing import load_head
from service.worker.process import Worker

NUMBERS = ["ENOMEM", "EMFILE", "ENFILE", "EAGAIN", "ESTALE", "EIO", "ENOSPC", "ECONNRESET"]
NOWHERE = "redis://127.0.0.1:1/0"


def error_of(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


PASSING: list[Exception] = [
    *map(error_of, NUMBERS),
    SystemError("error return without exception set"),
    torch.AcceleratorError("CUDA error: out of memory"),
    ModelNotFetched("the hub cannot be reached"),
    caused(SettingsError("JEEP_CORPUS cannot be read"), error_of("ESTALE")),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_passes_is_tried_again(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:  # fmt: skip
    def load(*_: object) -> None:
        raise error

    monkeypatch.setattr(common, "load", load)
    with caplog.at_level(logging.ERROR):
        assert Worker(Settings(store=store.root)).run() == 1
    [record] = caplog.records
    assert record.exc_info is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_worker_that_may_not_read_its_store_ends_for_good_and_says_who_needs_which_right(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Also one that has served for a while: a supervisor would start it again for ever."""

    def denied(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(store.root / "jobs" / "job_1.json"))

    for name in ("prepare", "load_base", "executor_of"):
        monkeypatch.setattr(process, name, lambda *_: None)
    monkeypatch.setattr(Worker, "_serve", denied)
    one = Follower(Settings(store=store.root, role="follower", redis_url=NOWHERE))
    monkeypatch.setattr(one, "_joined", lambda: store)
    for name in ("load_base", "check_base", "executor_of"):
        monkeypatch.setattr(follower, name, lambda *_: None)
    monkeypatch.setattr(one, "_serve", denied)
    with caplog.at_level(logging.ERROR):
        assert [Worker(Settings(store=store.root)).run(), one.run()] == [EXIT_CONFIG] * 2
    for record in caplog.records:
        assert record.message.startswith("jobs/job_1.json of the store")
        assert (record.exc_info, str(store.root) in record.message) == (None, False)


def test_actors_without_a_gpu_are_refused_before_the_model_is_loaded(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loads(*_: object) -> None:
        raise AssertionError("the model is loaded")

    given = {"store": store.root, "executor": "ray", "device": "cuda:1"}
    one = Follower(Settings(**given, role="follower", redis_url=NOWHERE))
    monkeypatch.setattr(one, "_joined", lambda: store)
    for module in (process, follower):
        monkeypatch.setattr(module, "load_base", loads)
    assert [Worker(Settings(**given)).run(), one.run()] == [EXIT_CONFIG] * 2
    assert caplog.text.count("JEEP_EXECUTOR_GPUS: 0") == 2


def test_so_it_is_while_the_parts_of_a_worker_are_made(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process(*_: object) -> None:
        raise error_of("EAGAIN")

    monkeypatch.setattr(common, "load", lambda *_: None)
    for name in ("prepare", "load_base"):
        monkeypatch.setattr(process, name, lambda *_: None)
    monkeypatch.setattr(process, "executor_of", no_process)
    assert Worker(Settings(store=store.root)).run() == 1


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_a_follower_tries_again_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    one = Follower(Settings(store=tmp_path, role="follower", redis_url=NOWHERE))

    def joined() -> None:
        raise error

    monkeypatch.setattr(one, "_joined", joined)
    assert one.run() == 1


@pytest.mark.parametrize("name", NUMBERS)
def test_a_running_follower_does_not_end_for_good(
    based: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def away(_: Store) -> None:
        raise error_of(name)

    one = Follower(Settings(store=based.root, role="follower", redis_url=NOWHERE))
    monkeypatch.setattr(follower, "check_identity", away)
    one._check_again(based, None)  # type: ignore[arg-type]
    assert (one._code, one.stop.is_set()) == (1, True)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFetched("not now"), EXIT_AGAIN),
        (StoreReplaced("another"), EXIT_AGAIN),
        (StaleFence("too old"), 1),
        (QueueFailure("away"), 1),
        (CorruptFile("damaged"), EXIT_CONFIG),
        (NotAStore("no store"), EXIT_CONFIG),
        (WrongModel("another model"), EXIT_CONFIG),
        (UnsupportedModel("no model"), EXIT_CONFIG),
        (JeepError("wrong"), EXIT_CONFIG),
        (SettingsError("wrong"), EXIT_CONFIG),
        (error_of("EACCES"), EXIT_CONFIG),
        (error_of("ENOENT"), EXIT_CONFIG),
        (RuntimeError("a defect"), None),
        (SystemError("bad argument to internal function"), None),
    ],
    ids=repr,
)
def test_only_what_somebody_must_change_is_final(error: Exception, code: int | None) -> None:
    assert exit_code(error) == code


def test_a_file_of_a_setting_that_cannot_be_read_now_is_no_wrong_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*_: object, **__: object) -> None:
        raise error_of("ESTALE")

    path = tmp_path / "file"
    path.write_text("{}")
    monkeypatch.setattr(Path, "open", stale)
    monkeypatch.setattr(Path, "read_text", stale)
    for settings in (Settings(relations=path), Settings(corpus=path)):
        with pytest.raises(SettingsError) as caught:
            input_files.check_inputs(settings)
        assert exit_code(caught.value) == 1


def test_a_head_that_cannot_be_read_now_keeps_no_worker_from_starting(
    based: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A rollback stays possible."""

    class Views:
        def get(self, version: str) -> None:
            raise error_of("EIO")

    load_head(based, Views())  # type: ignore[arg-type]
    assert "head cannot be read now" in caplog.text
