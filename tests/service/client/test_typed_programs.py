"""Programs that use the client are checked by mypy, strictly, with its types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT
from support.pages import examples

PROGRAM = """
from typing import Literal, assert_type

from service.client import ApiError, AsyncClient, Client
from service.contracts.jobs import JobStatus
from service.contracts.schemas import Edit, GeneratedToken, GenerateResult, JobOut, Snapshot
from service.contracts.schemas.jobs import EditSummary


def plain(client: Client) -> None:
    assert_type(client.edit([{"subject": "Lyon"}]), JobOut)
    assert_type(client.wait("job_1").status, JobStatus)
    assert_type(client.edit_result("edit_1"), Edit)
    assert_type(list(client.snapshots()), list[Snapshot])
    assert_type(list(client.edits()), list[EditSummary])
    for name, said in client.stream("Lyon"):
        assert_type(name, Literal["token", "result"])
        assert_type(said, GeneratedToken | GenerateResult)
    for event in client.stream("Lyon"):
        if event[0] == "token":
            assert_type(event[1], GeneratedToken)
        else:
            assert_type(event[1], GenerateResult)


async def waiting(client: AsyncClient) -> float | None:
    assert_type(await client.edit([{"subject": "Lyon"}]), JobOut)
    assert_type([one async for one in client.snapshots()], list[Snapshot])
    assert_type((await client.generate("Lyon")).results[0].text, str)
    try:
        await client.rollback("base")
    except ApiError as error:
        return error.retry_after
    return None
"""
WRONG = """
from service.client import AsyncClient, Client


def plain(client: Client) -> int:
    client.edit([{"subject": "Lyon"}]).identifier
    return client.snapshot().id


async def waiting(client: AsyncClient) -> str:
    return client.snapshot().id
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The complaints of one run of mypy, by file."""
    folder = tmp_path_factory.mktemp("typed")
    page = "\n\n".join(example.code for example in examples(ROOT / "docs" / "client.md"))
    files = {"program.py": PROGRAM, "wrong.py": WRONG, "page.py": page}
    for name, text in files.items():
        (folder / name).write_text(text)
    # with the settings of make check, and what it has kept
    command = [sys.executable, "-m", "mypy", "--no-pretty"]
    done = subprocess.run(
        [*command, *sorted(str(folder / name) for name in files)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    lines = [line for line in done.stdout.splitlines() if ": error: " in line]
    found = {
        name: [line for line in lines if Path(line.split(":")[0]).name == name] for name in files
    }
    assert sum(map(len, found.values())) == len(lines), "elsewhere: " + done.stdout
    return found


def test_a_program_gets_the_types_of_the_contracts(checked: dict[str, list[str]]) -> None:
    assert checked["program.py"] == []


def test_the_examples_of_the_page_are_typed(checked: dict[str, list[str]]) -> None:
    assert checked["page.py"] == []


def test_mistakes_are_found(checked: dict[str, list[str]]) -> None:
    kinds = [line.rpartition("[")[2] for line in checked["wrong.py"]]
    assert kinds == ["attr-defined]", "return-value]", "no-any-return]", "attr-defined]"]


@pytest.mark.parametrize("package", ["jeep_core", "service"])
def test_the_packages_say_that_they_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
    assert f'{package} = ["py.typed"' in (ROOT / "pyproject.toml").read_text("utf-8")
