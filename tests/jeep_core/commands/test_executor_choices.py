"""`jeep tune` and `jeep moments compute` with every executor; what a choice means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from support.library.small_study import MEMIT
from support.played_ray import RAY_IN_THREADS

from jeep_core.commands import WrongArgument
from jeep_core.commands import moments as moments_command
from jeep_core.commands.reproduce import Options as StudyOptions
from jeep_core.commands.reproduce import _executor
from jeep_core.commands.tune import Options, run
from jeep_core.commands.working import executor_for
from jeep_core.errors import JeepError, NoCluster
from jeep_core.evaluation.trials import TrialTerms
from jeep_core.executors.choice import ALONE, Choice, Name
from jeep_core.executors.here import HERE
from jeep_core.executors.processes import Processes
from jeep_core.executors.ray import cluster as cluster_module
from jeep_core.executors.ray.cluster import RayCluster
from jeep_core.models.loading import LoadedModel, load
from jeep_core.moments.cache import Moments
from jeep_core.monitor import NOTHING

CLUSTER = Choice(executor="ray", workers=2, address="10.0.0.1:6379")
CHOICES = {
    "processes, 1": Choice(executor="processes", workers=1),
    "processes, 2": Choice(executor="processes", workers=2),
    "ray, 4": replace(CLUSTER, workers=4),
}


def tuned(inputs: StudyOptions, out: Path, executor: Choice) -> str:
    """The preset that is found on a tiny model, over settings of two values of γ and two of λ."""
    given: dict[str, Any] = {
        "suite": "atlas-counterfact-validation",
        "samples": 6000,
        "corpus": inputs.corpus,
    }
    given |= {"device": "cpu", "dtype": "float32", "presets": inputs.presets, "cases": 2}
    out.parent.mkdir()
    run(
        Options(
            model=inputs.model,
            editor="memit",
            out=out,
            rounds=1,
            folder=inputs.out,  # moments are taken once
            executor=executor,
            **given,
        )
    )
    return out.read_text()


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"low.clamp": [0.5, 0.75], "low.moment_weight": [5.0, MEMIT["low"]["moment_weight"]]}  # type: ignore[index]
    monkeypatch.setattr("jeep_core.commands.tune.grid", lambda *_: grid)
    monkeypatch.syspath_prepend(RAY_IN_THREADS)


@pytest.mark.usefixtures("_few")
def test_the_same_preset_is_found_whoever_tries_the_settings(
    inputs: StudyOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tuned(inputs, tmp_path / "here" / "found.yaml", ALONE)
    by: list[str] = []
    for kind in (Processes, RayCluster):
        monkeypatch.setattr(kind, "run", named(kind.run, kind.__name__, by))
    for number, choice in enumerate(CHOICES.values()):
        assert tuned(inputs, tmp_path / str(number) / "found.yaml", choice) == expected
    assert {*by} == {"Processes", "RayCluster"}


def named(method: Any, name: str, by: list[str]) -> Any:
    def noted(*args: Any) -> Any:
        by.append(name)
        return method(*args)

    return noted


@pytest.mark.usefixtures("_few")
def test_moments_are_those_of_this_process_whoever_reads_the_text(
    inputs: StudyOptions, tmp_path: Path
) -> None:
    found = {}
    for name, choice in {"here": ALONE, **CHOICES}.items():
        folder = tmp_path / name
        for _ in moments_command.compute(
            model=inputs.model, folder=folder, layers=[0, 1], corpus=inputs.corpus, samples=9000,
            device="cpu", dtype="float32", executor=choice,
        ):  # fmt: skip
            pass
        # not the bytes of the files, whose metadata has no order
        moment = {path.name: load_file(path)["moment"] for path in sorted(folder.iterdir())}
        found[name] = {file: tensor.numpy().tobytes() for file, tensor in moment.items()}
    assert found["here"]
    assert all(files == found["here"] for files in found.values())


# ------------------------------------------------------------------ choices


def base_on(*devices: str, name: str = "mine") -> LoadedModel:
    found = [torch.device(device) for device in devices]
    return cast(LoadedModel, SimpleNamespace(device=found[0], devices=found, name=name))


def test_a_choice_makes_its_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert executor_for(ALONE, base_on("cpu")) is HERE
    assert ALONE.count == 1
    processes = executor_for(Choice(executor="processes", workers=3, threads=2), base_on("cpu"))
    assert isinstance(processes, Processes)
    assert (processes.workers, processes._terms.threads, processes._terms.niceness) == (3, 2, 0)
    monkeypatch.syspath_prepend(RAY_IN_THREADS)
    cluster = executor_for(CLUSTER, base_on("cpu"))
    assert isinstance(cluster, RayCluster)
    assert (cluster.workers, cluster._terms.address) == (2, "10.0.0.1:6379")


def test_actors_without_a_gpu_are_refused_where_the_model_is_on_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(WrongArgument, match="JEEP_EXECUTOR_GPUS=0 leaves the actors"):
        executor_for(CLUSTER, base_on("cuda:0"))
    with pytest.raises(WrongArgument, match="on cpu, cuda:0"):
        executor_for(CLUSTER, base_on("cpu", "cuda:0"))
    monkeypatch.setattr(cluster_module, "find_spec", lambda name: None)
    with pytest.raises(NoCluster, match="Ray is not installed"):
        executor_for(CLUSTER, base_on("cpu"))


@pytest.mark.parametrize(
    ("model", "given", "executor", "count"),
    [
        ("mine", None, "here", 1),
        ("atlas-gptj", None, "processes", 3),
        ("atlas-gptj", ALONE, "here", 1),
        ("mine", CLUSTER, "ray", 2),
    ],
)
def test_a_study_without_a_choice_has_a_process_a_core_for_a_small_model(
    monkeypatch: pytest.MonkeyPatch, model: str, given: Choice | None, executor: Name, count: int
) -> None:
    monkeypatch.setattr("jeep_core.commands.reproduce.os.cpu_count", lambda: 3)
    monkeypatch.setattr("jeep_core.commands.reproduce.torch.get_num_threads", lambda: 7)
    options = StudyOptions(model=model, out=Path("x"), executor=given)
    found = _executor(options, base_on("cpu", name=model))
    assert (found.executor, found.count) == (executor, count)
    assert found.threads == (2 if executor == "processes" else None), "a share of this process's"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"threads": 5}, Choice(executor="processes", workers=3, threads=5)),
        ({"workers": 2}, Choice(executor="processes", workers=2, threads=3)),
        ({"memory_bytes": 9}, Choice(executor="processes", workers=3, threads=2, memory_bytes=9)),
        ({"workers": 1, "threads": 5}, ALONE),
    ],
)
def test_processes_that_nobody_has_chosen_are_as_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, int], expected: Choice
) -> None:
    monkeypatch.setattr("jeep_core.commands.reproduce.os.cpu_count", lambda: 3)
    monkeypatch.setattr("jeep_core.commands.reproduce.torch.get_num_threads", lambda: 7)
    options = StudyOptions(model="atlas-gptj", out=Path("x"), processes=known)
    assert _executor(options, base_on("cpu", name="atlas-gptj")) == expected
    large = StudyOptions(model="mine", out=Path("x"), processes=known)
    assert _executor(large, base_on("cpu")) == ALONE


# ------------------------------------------------------------------ folders of other machines


def test_a_worker_without_the_folder_of_moments_takes_none_of_its_own(
    inputs: StudyOptions, tmp_path: Path
) -> None:
    base = load(inputs.model, "cpu", "float32")
    moments = Moments(base, ["A text."], 6000, tmp_path / "there")
    terms = TrialTerms([], moments.terms, [], None, tmp_path / "values of another machine")
    trials = terms.of(base, NOTHING)
    assert trials.cache.folder is None, "nothing is left on its disk"
    with pytest.raises(JeepError, match=r"layer 1 are not in .*there on .*share, at the same path"):
        trials.moments.ensure([1])
    assert not (tmp_path / "there").exists()
