"""Commands that call the library: which function, with which values, and how its errors end."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import Mock, create_autospec

import pytest
from support import TINY_GPTJ
from support.played_ray import RAY_IN_THREADS
from typer.testing import CliRunner, Result

from jeep_core.commands import moments, probe, reproduce, train_network, tune
from jeep_core.editors import in_order
from jeep_core.editors.networks.training import TrainingSettings
from jeep_core.errors import JeepError, NoCluster
from jeep_core.executors.choice import ALONE, Choice
from jeep_core.probe.run import PROMPTS
from jeep_core.reproduce.experiments import EXPERIMENTS
from service.cli import app
from service.cli.tree import walk
from service.settings import WORKER_ENVIRONMENT, Settings, is_secret
from service.store import Store

NAMES = Path("/names")
"""The model directory."""
COMMANDS = {path[1:]: command for path, command in walk(aliases=True)}


def run(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(app, words, env={"COLUMNS": "200", **environment})


def called(monkeypatch: pytest.MonkeyPatch, module: Any, function: str, result: Any = None) -> Mock:
    """A stand-in for a command's function that takes what that takes."""
    stand_in: Mock = create_autospec(getattr(module, function), return_value=result)
    monkeypatch.setattr(module, function, stand_in)
    return stand_in


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEEP_STORE", str(tmp_path))
    monkeypatch.setenv("JEEP_MODELS", str(NAMES))
    monkeypatch.syspath_prepend(RAY_IN_THREADS)
    for name in ("JEEP_MODEL", "JEEP_CORPUS", "JEEP_PRESETS", "JEEP_MOMENTS"):
        monkeypatch.delenv(name, raising=False)


MODEL = {"model": "atlas-llama", "device": "auto", "dtype": "auto", "models_dir": NAMES}


def test_moments_are_computed_with_the_settings_where_the_service_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = called(monkeypatch, moments, "compute", ["one", "two"])
    environment = {"JEEP_MODEL": "atlas-llama", "JEEP_MOMENT_SAMPLES": "5000"}
    shown = run("moments", "compute", "--layers", "3-5,8", **environment)
    assert (shown.exit_code, shown.stdout) == (0, "one\ntwo\n"), shown.output
    expected = {
        **MODEL,
        "layers": [3, 4, 5, 8],
        "attention_layers": None,
        "gradient_layers": None,
        "shard": (0, 1),
    }
    expected |= {"out": None, "corpus": None, "samples": 5000, "executor": ALONE}
    expected["folder"] = tmp_path / "base" / "moments"
    assert compute.call_args.kwargs == expected
    words = ["--samples", "7", "--shard", "2/4", "--out", "sums", "--attention-layers", "1"]
    other = ("--models-dir", "other")
    run("moments", "compute", *words, "--folder", "f", "--device", "cpu", *other, **environment)
    given = {"samples": 7, "shard": (1, 4), "out": Path("sums"), "attention_layers": [1]}
    given |= {"layers": None, "folder": Path("f"), "device": "cpu", "models_dir": Path("other")}
    assert compute.call_args.kwargs == expected | given


def test_moments_are_merged_and_imported_into_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "base" / "moments"
    merge = called(monkeypatch, moments, "merge_shards", [])
    assert run("moments", "merge", "a", "b").exit_code == 0
    assert merge.call_args.args == ([Path("a"), Path("b")],)
    assert merge.call_args.kwargs == {"folder": folder}
    importing = called(monkeypatch, moments, "import_published", [])
    words = ["x.npz", "--name", "x", "--model", "atlas-llama", "--layer", "3"]
    assert run("moments", "import", *words).exit_code == 0
    assert importing.call_args.args == ([Path("x.npz")],)
    assert importing.call_args.kwargs == {**MODEL, "folder": folder, "name": "x", "layer": 3}


@pytest.mark.parametrize(
    "words", [("--layers", "a"), ("--layers", "3-1"), ("--shard", "3/2"), ("--shard", "x"),
              ("--attention-layers", "")]
)  # fmt: skip
def test_layers_and_shards_that_are_none(words: tuple[str, str]) -> None:
    shown = run("moments", "compute", *words)
    assert shown.exit_code == 2
    [line] = shown.stderr.splitlines()
    assert f"{words[0]}: {words[1]!r} is no " in line


def test_tuning_starts_from_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = called(monkeypatch, tune, "run")
    words = ["tune", "--suite", "mine.json", "--out", "x.yaml"]
    shown = run(*words, JEEP_PRESETS=str(tmp_path), JEEP_MOMENTS="wikipedia")
    assert shown.exit_code == 0, shown.output
    [options] = stand_in.call_args.args
    expected = tune.Options(
        model="atlas-gptj",
        suite="mine.json",
        out=Path("x.yaml"),
        folder=tmp_path / "base" / "moments",
        moments="wikipedia",
        probes=tmp_path / "base" / "probes",
        presets=tmp_path,
        models_dir=NAMES,
    )
    assert options == expected
    own = ["--presets", "p", "--probes", "q", "--folder", "f", "--moments", "m", "--layers", "auto"]
    own += ["--executor", "ray", "--workers", "3", "--executor-address", "10.0.0.5:6379"]
    run(*words, *own, JEEP_PRESETS=str(tmp_path), JEEP_MOMENTS="wikipedia")
    [options] = stand_in.call_args.args
    assert (options.presets, options.probes, options.folder) == (Path("p"), Path("q"), Path("f"))
    assert (options.moments, options.layers) == ("m", "auto")
    assert options.executor == Choice(executor="ray", workers=3, address="10.0.0.5:6379")


def test_a_report_takes_several_values_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = called(monkeypatch, reproduce, "run")
    words = ["--model", "m", "--sizes", "1", "16", "64", "--zsre", "-", "--only", "sweep"]
    words += ["--seeds", "0", "--seeds", "1", "--out", "a report", "--editors", "jeep", "memit"]
    shown = run("reproduce", *words)
    assert shown.exit_code == 0, shown.output
    [options] = stand_in.call_args.args
    expected = reproduce.Options(
        model="m",
        out=Path("a report"),
        zsre="-",
        sizes=(1, 16, 64),
        seeds=(0, 1),
        editors=("jeep", "memit"),
        only=("sweep",),
        folder=tmp_path / "base" / "moments",
        hypernetworks=tmp_path / "base" / "hypernetworks",
        models_dir=NAMES,
        executor=None,
        command="jeep reproduce --model m --sizes 1 16 64 --zsre - --only sweep --seeds 0 "
        "--seeds 1 --out 'a report' --editors jeep memit",
    )
    assert options == expected
    assert run("reproduce", "--out", "x").exit_code == 0
    [options] = stand_in.call_args.args
    assert options.editors == in_order()
    assert options.seeds == (0,)


EXECUTORS: list[tuple[str, dict[str, str], Choice | None]] = [
    ("", {}, None),
    ("--workers 1", {}, ALONE),
    ("--workers 4", {}, Choice(executor="processes", workers=4)),
    ("--executor processes", {"JEEP_EXECUTOR_WORKERS": "5"},
     Choice(executor="processes", workers=5)),
    ("--executor here", {"JEEP_EXECUTOR": "ray"}, ALONE),
    ("", {"JEEP_EXECUTOR": "here"}, ALONE),
    ("", {"JEEP_EXECUTOR": "processes", "JEEP_EXECUTOR_THREADS": "3"},
     Choice(executor="processes", threads=3)),
    ("--workers 1", {"JEEP_EXECUTOR": "ray", "JEEP_EXECUTOR_ADDRESS": "10.0.0.5:6379"},
     Choice(executor="ray", workers=1, address="10.0.0.5:6379")),
    ("--executor ray --executor-address local",
     {"JEEP_EXECUTOR_ADDRESS": "10.0.0.5:6379", "JEEP_EXECUTOR_CPUS": "2",
      "JEEP_EXECUTOR_GPUS": "0.5", "JEEP_EXECUTOR_WAIT_S": "7", "JEEP_EXECUTOR_WITHOUT": "here",
      "JEEP_EXECUTOR_MEMORY_MB": "9"},
     Choice(executor="ray", cpus=2, gpus=0.5, wait_s=7, without="here", memory_bytes=9 * 2**20)),
]  # fmt: skip


@pytest.mark.parametrize(("words", "environment", "expected"), EXECUTORS)
@pytest.mark.parametrize("command", ["tune", "reproduce", "moments"])
def test_commands_have_the_executors_of_the_service(
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    words: str,
    environment: dict[str, str],
    expected: Choice | None,
) -> None:
    module, function, given = {
        "tune": (tune, "run", ["tune", "--suite", "s", "--out", "x.yaml"]),
        "reproduce": (reproduce, "run", ["reproduce", "--out", "x"]),
        "moments": (moments, "compute", ["moments", "compute"]),
    }[command]
    stand_in = called(monkeypatch, module, function, [])
    shown = run(*given, *words.split(), **environment)
    assert shown.exit_code == 0, shown.output
    options, named = stand_in.call_args
    found = named["executor"] if command == "moments" else options[0].executor
    if found is not None and found.executor == "here":
        assert expected == ALONE or (
            expected is None and command != "reproduce"
        )  # of this process alone nothing else is looked at
    else:
        assert found == expected


def test_settings_of_workers_hold_for_processes_that_nobody_has_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in = called(monkeypatch, reproduce, "run")
    names = {"THREADS": "3", "MEMORY_MB": "9", "WORKERS": "4", "WAIT_S": "7"}
    environment = {f"JEEP_EXECUTOR_{name}": value for name, value in names.items()}
    for some, known in ((environment, {"threads": 3, "memory_bytes": 9 << 20, "workers": 4}),
                        ({}, {})):  # fmt: skip
        assert run("reproduce", "--out", "x", **some).exit_code == 0
        [options] = stand_in.call_args.args
        assert (options.executor, options.processes) == (None, known)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--executor here --workers 2", "--workers: "),
        ("--executor processes --executor-address local", "--executor-address: "),
        ("--executor ray --executor-address nowhere", "--executor-address: "),
        ("--executor spark", "--executor: "),
        ("--workers 0", "--workers: "),
    ],
)
def test_executors_that_no_command_can_have(words: str, named: str) -> None:
    shown = run("tune", "--suite", "s", "--out", "x.yaml", *words.split())
    assert shown.exit_code == 2, shown.output
    [line] = shown.stderr.splitlines()
    assert named in line


@pytest.mark.parametrize(
    ("words", "environment", "named"),
    [
        ((), {"JEEP_EXECUTOR": "ray"}, "JEEP_EXECUTOR=ray is set"),
        (("--executor", "ray"), {}, "--executor ray is set"),
    ],
)
def test_a_cluster_without_ray_is_refused_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    environment: dict[str, str],
    named: str,
) -> None:
    stand_in = called(monkeypatch, tune, "run")
    known = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n: None if n == "ray" else known(n))
    shown = run("tune", "--suite", "s", "--out", "x.yaml", *words, **environment)
    assert shown.exit_code == 2, shown.output
    assert named in shown.stderr
    assert "jeep-edit[ray]" in shown.stderr
    assert "--executor here" in shown.stderr
    assert not stand_in.called


def test_a_cluster_that_stays_away_is_named_with_the_options_that_say_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in = called(monkeypatch, tune, "run")
    stand_in.side_effect = NoCluster("the Ray cluster at 10.0.0.5:6379 cannot be reached")
    shown = run("tune", "--suite", "s", "--out", "x.yaml")
    assert shown.exit_code == 1
    assert "10.0.0.5:6379 cannot be reached" in shown.stderr
    assert "--executor-address (JEEP_EXECUTOR_ADDRESS)" in shown.stderr
    assert "--executor here" in shown.stderr


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--editors", "memit", "memmit"), "--editors: no editor 'memmit'"),
        (("--only", "everything"), "--only: no experiment 'everything'"),
        (("--paper", "bert"), "--paper: 'bert'"),
        (("--sizes", "1", "0"), "--sizes: "),
        (("--jobs", "0"), "--jobs"),
        (("--seeds",), "--seeds"),
        (("more",), "more"),
    ],
)
def test_values_that_no_report_can_have(words: tuple[str, ...], named: str) -> None:
    shown = run("reproduce", "--out", "x", *words)
    assert shown.exit_code == 2, shown.output
    [line] = shown.stderr.splitlines()
    assert named in line


@pytest.mark.parametrize("name", [("train-hypernetwork",), ("networks", "train")])
def test_networks_are_trained_into_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: tuple[str, ...]
) -> None:
    stand_in = called(monkeypatch, train_network, "run")
    given = {field.name: str(field.default) for field in fields(TrainingSettings)}
    flags = [part for key, value in given.items() for part in (f"--{key}".replace("_", "-"), value)]
    shown = run(*name, "mend", "m", "--layers", "7,8", "--rank", "2", "--data", "d", *flags)
    assert shown.exit_code == 0, shown.output
    expected: dict[str, Any] = {"editor": "mend", "model": "m", "data": Path("d"), "rank": 2}
    expected |= {"layers": [7, 8], "blocks": None, "device": "auto", "dtype": "auto"}
    expected |= {"folder": tmp_path / "base" / "hypernetworks", "models_dir": NAMES}
    defaults = {field.name: field.default for field in fields(TrainingSettings)}
    assert stand_in.call_args.kwargs == expected | defaults
    run(*name, "mend", "m", "--out", "o")
    rest = {name: value for name, value in stand_in.call_args.kwargs.items() if value is not None}
    assert rest == {"editor": "mend", "model": "m", "folder": Path("o"), "device": "auto",
                    "dtype": "auto", "models_dir": NAMES}  # fmt: skip
    run(*name, "mend", "m", "--store", "s")
    assert stand_in.call_args.kwargs["folder"] == Path("s/base/hypernetworks")


def test_a_training_that_is_interrupted_says_that_it_can_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called(monkeypatch, train_network, "run").side_effect = KeyboardInterrupt
    shown = run("networks", "train", "mend", "m")
    assert shown.exit_code == 130
    assert "goes on from the checkpoint" in shown.stderr


def test_a_probe_is_kept_where_the_service_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = called(monkeypatch, probe, "run")
    assert run("probe", "--out", "x").exit_code == 0
    expected: dict[str, Any] = {**MODEL, "model": "atlas-gptj"}
    expected |= {"out": Path("x"), "suite": None, "seed": 0, "corpus": None, "table": None}
    expected["quick"] = False
    assert stand_in.call_args.kwargs == {**expected, "keep": tmp_path / "base" / "probes"}
    run("probe", "--out", "x", "--limit", "9", "--keep", "k", JEEP_STORE=str(tmp_path / "none"))
    assert stand_in.call_args.kwargs == {**expected, "keep": Path("k"), "limit": 9}
    run("probe", "--out", "x", "--quick", JEEP_STORE=str(tmp_path / "none"))
    assert stand_in.call_args.kwargs["quick"] is True
    run("probe", "--out", "x", JEEP_STORE=str(tmp_path / "none"))
    assert stand_in.call_args.kwargs == {**expected, "keep": None}


def test_an_error_of_the_library_is_one_sentence_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in = called(monkeypatch, probe, "run")
    for error in (JeepError("no suite"), FileNotFoundError(2, "No such file", "x")):
        stand_in.side_effect = error
        shown = run("probe", "--out", "x")
        assert shown.exit_code == 1
        assert shown.stderr == f"jeep: {error}\n"


def test_too_little_memory_is_one_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = called(monkeypatch, probe, "run")
    stand_in.side_effect = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    shown = run("probe", "--out", "x")
    assert shown.exit_code == 1
    assert shown.stderr.startswith("jeep: memory is not enough (DefaultCPUAllocator: can't all")
    assert shown.stderr.count("\n") == 1
    assert "where the command has them" in shown.stderr, "others have no --device"
    stand_in.side_effect = RuntimeError("a defect")
    assert isinstance(run("probe", "--out", "x").exception, RuntimeError)


def test_without_torch_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for words in (
        ("probe", "--out", "x"),
        ("serve",),
        ("networks", "train", "mend", "m"),
        ("models",),
    ):
        shown = run(*words)
        assert shown.exit_code == 2
        assert "pip install 'jeep-edit[worker]'" in shown.stderr


def test_help_names_what_the_library_offers() -> None:
    def helps(*path: str) -> dict[str, str]:
        return {one.name: str(one.help) for one in COMMANDS[path].params}

    named = re.split(r"[,;]? ", helps("reproduce")["only"])
    assert named[: len(EXPERIMENTS) + 1] == [*EXPERIMENTS, reproduce.CASE]
    assert f"default: {PROMPTS}." in helps("probe")["limit"]
    offered = helps("networks", "train").keys()
    assert {field.name for field in fields(TrainingSettings)} <= offered


def test_collecting_runs_in_this_process_with_the_environment_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.worker.versions import collect_command

    stand_in = called(monkeypatch, collect_command, "main", 1)
    for name in WORKER_ENVIRONMENT:
        monkeypatch.setenv(name, "set before")
    Store.open(tmp_path)
    assert run("store", "gc", "--keep", "3", JEEP_MODEL=str(TINY_GPTJ)).exit_code == 1
    [settings] = stand_in.call_args.args
    assert (settings.store, settings.keep_versions) == (tmp_path, 3)
    assert settings.model == str(TINY_GPTJ)


def test_a_worker_runs_in_the_process_of_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from service.worker import process

    stand_in = called(monkeypatch, process, "main", 78)
    for name in WORKER_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    shown = run("worker", "--redis-url", "redis://127.0.0.1:1/0")
    assert shown.exit_code == 78
    assert stand_in.call_args.args[0].redis_url == "redis://127.0.0.1:1/0"
    for name, value in WORKER_ENVIRONMENT.items():
        assert os.environ.pop(name) == value


@pytest.mark.parametrize("command", ["serve", "api", "worker"])
def test_secrets_are_no_options(command: str) -> None:
    """Everybody on the machine sees the arguments of its processes."""
    shown = {one.name for one in COMMANDS[command,].params} - {"help"}
    secret = {name for name, field in Settings.model_fields.items() if is_secret(field)}
    assert secret
    assert shown >= Settings.model_fields.keys() - secret
    assert not shown & secret


def test_an_address_with_a_password_is_no_option_either(monkeypatch: pytest.MonkeyPatch) -> None:
    from service.worker import process

    stand_in = called(monkeypatch, process, "main", 0)
    for address in (
        "redis://:hidden@10.0.0.5:6379/0",
        "rediss://user:hidden@queue:6379",
        "redis://:hidden/more@queue:6379/0",
        "redis://queue:6379/0?password=hidden",
    ):
        shown = run("worker", "--redis-url", address)
        assert shown.exit_code == 2
        assert "JEEP_REDIS_PASSWORD" in shown.output
        assert "hidden" not in shown.output
    stand_in.assert_not_called()
    monkeypatch.setenv("JEEP_REDIS_URL", "redis://:hidden@10.0.0.5:6379/0")
    assert run("worker").exit_code == 0
    assert run("worker", "--redis-url", "redis://user@10.0.0.5:6379").exit_code == 0
