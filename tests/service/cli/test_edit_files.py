"""The kind of file that ``jeep edit`` is given is found, and what is wrong in it is named."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.cli.edit_files import PROBLEMS, read_edit
from service.contracts.schemas.reading import Imported

FACTS = [
    {"subject": "Lyon", "prompt": "{} lies in", "target_new": "Peru"},
    {"subject": "Paris", "prompt": "{} lies in", "target_new": "Chile"},
]
CSV = "subject,prompt,target_new\nLyon,{} lies in,Peru\nParis,{} lies in,Chile\n"
FORMS = {
    "commas": CSV,
    "semicolons": CSV.replace(",", ";"),
    "tabs": CSV.replace(",", "\t"),
    "quoted": CSV.replace("subject", '"subject"'),
    "json": json.dumps(FACTS),
    "lines": "\n".join(map(json.dumps, FACTS)),
}
NOBODY = ("--url", "http://127.0.0.1:9")


def told(*words: str, given: str | None = None) -> tuple[int, str]:
    found = CliRunner().invoke(app, [*words, *NOBODY], input=given, env={"COLUMNS": "300"})
    return found.exit_code, found.output


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "marked"])
@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_file_is_read_without_a_word_about_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, mark: bytes
) -> None:
    path = tmp_path / "facts"
    path.write_bytes(mark + FORMS[form].encode())
    body = read_edit(path, None, None, False)
    assert [{name: one[name] for name in FACTS[0]} for one in body["facts"]] == FACTS
    assert "without a meaning" not in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--exact",), ("--contexts", "plain")])
def test_an_option_for_one_hyper_parameter_goes_with_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...]
) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr("service.client.Client.plan", lambda _, facts, **body: sent.append(body))
    file = tmp_path / "facts.json"
    file.write_text(json.dumps({"facts": FACTS, "hparams": {"n_steps": 3}}), encoding="utf-8")
    told("edit", str(file), "--dry-run", *option)
    told("edit", str(file), "--dry-run", "--hparams", '{"n_steps": 4}', *option)
    said = {"exact": True} if len(option) == 1 else {"contexts": "plain"}
    assert [body["hparams"] for body in sent] == [{"n_steps": 3, **said}, {"n_steps": 4, **said}]
    sent.clear()
    for auto in ("--hparams", "--preset"):
        told("edit", str(file), "--dry-run", auto, "auto", *option)
    changed = [
        {"preset": "auto", "hparams": said},
        {"preset": "auto", "hparams": {"n_steps": 3, **said}},
    ]
    assert sent == changed, "hyper-parameters of the line are in the place of the file's"
    mine = ("--preset", "mine", "--hparams", "auto")
    code, why = told("edit", str(file), "--dry-run", *mine, *option)
    assert (code, "leave out --hparams" in why) == (2, True)


@pytest.mark.parametrize("name", ["exact", "dry_run"])
def test_what_stands_beside_records_and_is_meant_for_the_edit_is_sent(
    tmp_path: Path, name: str
) -> None:
    """The service says where it belongs; without it the edit would be another one."""
    file = tmp_path / "facts.json"
    record = FACTS[0] | {"ground_truth": "France"}
    for said in ({"data": [record]}, record):
        file.write_text(json.dumps(said | {name: True}), encoding="utf-8")
        body = read_edit(file, None, None, False)
        assert body == {"facts": [record], name: True}


def test_csv_comes_by_standard_input_too() -> None:
    code, said = told("edit", "-", given=CSV.replace("Peru", ""))
    assert code == 1
    assert "target_new" in said
    assert "not JSON" not in said


def test_a_marked_file_of_facts_is_read_by_probes_too(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(codecs.BOM_UTF8 + json.dumps(FACTS).encode())
    assert "cannot be reached" in told("probes", "run", "--facts", str(path))[1]


@pytest.mark.parametrize(
    ("content", "near"),
    [
        (CSV.replace("prompt", "promt"), "'promt': did you mean 'prompt'?"),
        (CSV.replace("subject", "subjct"), "'subjct': did you mean 'subject'?"),
    ],
)
def test_a_misspelt_column_that_is_needed_is_named(tmp_path: Path, content: str, near: str) -> None:
    path = tmp_path / "facts.csv"
    path.write_text(content)
    code, said = told("edit", str(path))
    assert (code, near in said, str(path) in said) == (1, True, True), said


def test_a_misspelt_field_of_a_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([{"subject": "Lyon", "promt": "{} is in", "target_new": "Peru"}]))
    code, said = told("edit", str(path), "--format", "auto")
    assert (code, "'promt': did you mean 'prompt'?" in said) == (1, True), said


def test_a_misspelt_optional_column_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text("subject,prompt,target_new,taget_true\nLyon,{} lies in,Peru,France\n")
    said = told("edit", str(path))[1]
    warned = "warning: fields without a meaning here: 1 taget_true; 'taget_true': did you mean"
    assert f"{warned} 'target_true'" in said


@pytest.mark.parametrize(("bad", "more"), [(1, 0), (3, 0), (PROBLEMS + 2, 2)])
def test_the_problems_of_a_file_are_listed(tmp_path: Path, bad: int, more: int) -> None:
    path = tmp_path / "facts.csv"
    rows = "".join(f"Lyon,{{}} lies in {i},\n" for i in range(bad))
    path.write_text(f"subject,prompt,target_new\n{rows}Paris,{{}} lies in,Peru\n")
    code, said = told("edit", str(path))
    assert code == 1
    listed = [line for line in said.splitlines() if "target_new" in line]
    assert len(listed) == min(bad, PROBLEMS)
    assert all(line.count("target_new") == 1 for line in listed), said
    assert (f"and {more} more" in said) == bool(more)


def test_losses_say_a_field_once() -> None:
    from service.cli.reading import loss_lines

    problem: dict[str, Any] = {"line": 2, "record": 0, "code": "missing", "field": "prompt"}
    given = {"format": "plain", "records": 1, "facts": 1}
    losses = Imported.model_validate(
        {**given, "problems": [{**problem, "message": "prompt is missing"}]}
    )
    assert [line.plain for line in loss_lines(losses)] == ["  line 2, record 0: prompt is missing"]
