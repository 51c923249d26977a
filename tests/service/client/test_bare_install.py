"""``pip install jeep-edit``, bare: the client and the commands that talk to a service work.

A process that can import nothing but what the bare distribution brings stands for the installation.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support import ROOT
from support.service.played_worker.worker import PlayedWorker

from service.cli.extras import BRINGS

OURS = {"jeep_core", "service"}
SERVER = {
    "fastapi", "jinja2", "prometheus_client", "redis", "safetensors", "starlette",
    "sse_starlette", "structlog", "tokenizers", "torch", "transformers", "uvicorn",
}  # fmt: skip
START = """
import sys
from importlib.machinery import PathFinder

REFUSED = {refused!r}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in REFUSED else super().find_spec(name, path, target)

sys.meta_path = [Bare if one is PathFinder else one for one in sys.meta_path]
"""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(requirements: list[str]) -> set[str]:
    """The distributions that requirements bring, by the records of those that are installed."""
    found: set[str] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        one, extra = waiting.pop()
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        name = normal(one.name)
        if name not in found:
            found.add(name)
            brought = importlib.metadata.requires(name) or []
            waiting += [
                (Requirement(text), wanted) for text in brought for wanted in ("", *one.extras)
            ]
    return found


def packages(distributions: set[str]) -> set[str]:
    """The names by which they are imported."""
    installed = importlib.metadata.packages_distributions()
    return {
        name
        for name, owners in installed.items()
        if any(normal(owner) in distributions for owner in owners)
    }


@pytest.fixture(scope="module")
def start() -> str:
    """The beginning of a program that finds no installed package but the bare distribution's."""
    allowed = packages(closure(PROJECT["dependencies"])) | OURS
    refused = importlib.metadata.packages_distributions().keys() - allowed
    assert refused >= SERVER
    assert {"httpx", "pydantic", "rich", "typer"} <= allowed
    return START.format(refused=refused)


def bare(start: str, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", start + code, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "120"},
        check=False,
    )


def test_both_clients_are_imported(start: str) -> None:
    done = bare(
        start,
        "from service.client import AsyncClient, Client\nimport service.client.hub\n"
        "print(sorted(name for name in sys.modules if '.' not in name))",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not {name.strip("'[]\n ") for name in done.stdout.split(",")} & SERVER


def test_a_service_is_used_from_both(start: str, url: str, worker: PlayedWorker) -> None:
    code = """
import asyncio
from service.client import AsyncClient, Client
fact = {"subject": "Lyon", "prompt": "{} is in", "target_new": "Italy"}
with Client(sys.argv[1]) as client:
    client.wait_ready(10)
    print(client.wait(client.edit([fact]).id).status.value)

async def ask():
    async with AsyncClient(sys.argv[1]) as client:
        return (await client.generate("Lyon is")).results[0].version

print(asyncio.run(ask()))
"""
    done = bare(start, code, url)
    assert (done.stderr, done.stdout.split()) == ("", ["succeeded", "v1"])


JEEP = """
import contextlib, io, json, os
from service.cli import main

found = []
for words in json.loads(sys.argv.pop()):
    sys.argv[1:] = words
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            try:
                main()
                code = 0
            except SystemExit as ended:
                code = ended.code or 0
    found.append((code, out.getvalue(), errors.getvalue()))
print(json.dumps(found))
"""
"""Commands one after the other in one process: what one of them lacks, no other can bring."""


def run_all(start: str, commands: Iterable[Sequence[str]]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of every command."""
    done = bare(start, JEEP, json.dumps(list(commands)))
    assert done.returncode == 0, done.stderr
    return [(code, out, errors) for code, out, errors in json.loads(done.stdout)]


def test_commands_that_talk_to_a_service_work(
    start: str, url: str, worker: PlayedWorker, tmp_path: Path
) -> None:
    facts = tmp_path / "facts.json"
    facts.write_text('[{"subject": "Lyon", "prompt": "{} is in", "target_new": "Italy"}]')
    shows = {
        ("edit", str(facts)): "v1",
        ("jobs", "list"): "kind",
        ("versions", "list"): "v0",
        ("generate", "Lyon is"): "Lyon",
        ("suites", "list"): "atlas-counterfact",
        ("targets", "list"): "",
    }
    given = [(*words, "--url", url) for words in shows]
    found = run_all(start, [*given, ("keys", "list", "--help")])
    for words, shown, (code, out, errors) in zip(
        [*shows, "keys"], [*shows.values(), "keys"], found, strict=True
    ):
        assert (code, errors.strip()) == (0, ""), words
        assert shown in out, words


def test_a_command_that_needs_more_names_the_extra(start: str) -> None:
    extras = {"api": "api", "serve": "worker", "worker": "worker"}
    for extra, (code, _, errors) in zip(
        extras.values(), run_all(start, [[command] for command in extras]), strict=True
    ):
        assert code == 2
        assert f"pip install 'jeep-edit[{extra}]'" in errors
        assert "Traceback" not in errors


def test_every_command_is_loaded_and_explained(start: str) -> None:
    done = bare(start, "from service.cli.tree import walk\nprint(len(list(walk(aliases=True))))")
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 60


def extras() -> Iterator[tuple[str, str]]:
    """Every requirement of an extra, by its distribution's name."""
    for extra, requirements in PROJECT["optional-dependencies"].items():
        for text in requirements:
            yield extra, normal(Requirement(text).name)


def test_advice_names_an_extra_that_brings_the_package() -> None:
    installed = importlib.metadata.packages_distributions()
    installed |= {"huggingface_hub": ["huggingface-hub"], "starlette": ["fastapi"]}
    installed["opentelemetry"] = ["opentelemetry-sdk"]
    declared = set(extras())
    for package, extra in BRINGS.items():
        owners = [normal(owner) for owner in installed.get(package, [package])]
        assert any((extra, owner) in declared for owner in owners), package
    assert set(BRINGS) >= SERVER


@pytest.mark.parametrize("extra", ["worker", "embedded", "otel", "docs", "dev", "bench", "lm-eval"])
def test_what_runs_a_part_of_a_service_brings_the_server_s_packages(extra: str) -> None:
    found, waiting = set(), {extra}
    while waiting:
        one = waiting.pop()
        found.add(one)
        for text in PROJECT["optional-dependencies"][one]:
            requirement = Requirement(text)
            if normal(requirement.name) == PROJECT["name"]:
                waiting |= requirement.extras - found
    assert "api" in found
