"""The executor of a lane is the one that the settings name."""

from __future__ import annotations

from contextlib import ExitStack
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from support.library.shared_work import FACTS
from support.service.edit_runner import MODEL, an_edit, edit_on, give_moments

import jeep_core
from jeep_core.executors import crew
from jeep_core.executors.here import HERE
from jeep_core.executors.processes import Processes
from jeep_core.executors.ray import cluster
from jeep_core.models.loading import LoadedModel
from jeep_core.values import units
from service.settings import Settings, SettingsError
from service.store import Store
from service.worker.executing import check_executor, executor_of
from service.worker.gate import Gate
from service.worker.kinds.edits import EditRunner
from service.worker.versions.views import VersionViews


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return jeep_core.load(str(MODEL), device="cpu")


@pytest.fixture
def warmed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the process that workers are forked from imports, once it was started."""
    found: list[str] = []
    server = forkserver._forkserver  # type: ignore[attr-defined]
    monkeypatch.setattr(
        crew.forkserver, "ensure_running", lambda: found.extend(server._preload_modules)
    )
    return found


def test_without_a_setting_the_worker_does_all_itself(base: LoadedModel, warmed: list[str]) -> None:
    assert executor_of(Settings(), base, ExitStack()) is HERE
    assert warmed == []


def test_processes_are_as_many_as_were_asked_for(base: LoadedModel, warmed: list[str]) -> None:
    with ExitStack() as stack:
        found = executor_of(Settings(executor="processes", executor_workers=3), base, stack)
        assert isinstance(found, Processes)
        assert found.workers == 3
        assert found.pids() == [], "they start when they are needed"
        assert {*crew.PRELOADED, type(base.model).__module__} == set(warmed), "at once"


def test_each_lane_has_its_own(base: LoadedModel, warmed: list[str]) -> None:
    with ExitStack() as stack:
        first, second = (executor_of(Settings(executor="processes"), base, stack) for _ in range(2))
        assert first is not second


def test_ray_that_is_not_installed_is_said_by_its_setting(
    base: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"JEEP_EXECUTOR: .*jeep-edit\[ray\]"):
        executor_of(Settings(executor="ray"), base, ExitStack())


@pytest.mark.parametrize(
    ("device", "gpus", "refused"),
    [
        ("cuda", 0, True),
        ("cuda:1", 0, True),
        ("balanced", 0, True),
        ("0-3@cuda:0,4-7@cuda:1", 0, True),
        ("cuda", 0.5, False),
        ("cpu", 0, False),
        ("auto", 0, False),
    ],
)
def test_actors_that_are_to_use_gpus_are_given_a_share_of_one(
    device: str, gpus: float, refused: bool
) -> None:
    settings = Settings(executor="ray", device=device, executor_gpus=gpus)
    check_executor(settings.model_copy(update={"executor": "processes"}))
    if refused:
        with pytest.raises(SettingsError, match=r"JEEP_EXECUTOR_GPUS: 0 .*JEEP_EXECUTOR=ray"):
            check_executor(settings)
    else:
        check_executor(settings)


def test_a_gpu_that_was_found_needs_a_share_too(monkeypatch: pytest.MonkeyPatch) -> None:
    there = SimpleNamespace(devices=("cuda:0",), device="cuda:0")
    with pytest.raises(SettingsError, match=r"JEEP_DEVICE=auto: cuda:0\)"):
        executor_of(Settings(executor="ray"), cast(LoadedModel, there), ExitStack())


def test_a_version_has_the_same_bytes_with_processes(
    base: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "unit_facts", lambda device: 2)
    facts = [{"subject": f.subject, "prompt": "{} lies in", "target_new": "Peru"} for f in FACTS]
    found = {}
    for name in ("here", "processes"):
        store = Store.open(tmp_path / name)
        (tmp_path / f"moments {name}").mkdir()
        give_moments(base, store, tmp_path / f"moments {name}")
        settings = Settings(
            store=store.root, model=str(MODEL), moments="wikipedia", executor=name, threads=1
        )
        with ExitStack() as stack:
            runner = EditRunner(
                base,
                store,
                VersionViews(base, store),
                settings,
                Gate(0.5),
                executor=executor_of(settings, base, stack),
            )
            found[name] = edit_on(runner, an_edit(*facts), "v0")[0].weights_sha256
    assert found["here"] == found["processes"]
