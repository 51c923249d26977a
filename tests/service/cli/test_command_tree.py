"""The tree of commands: what it costs to be shown, what it says, how it complains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from support import TINY_GPTJ
from typer.testing import CliRunner, Result

from jeep_core.models.library import Library
from service.cli import app
from service.cli.commands import running
from service.cli.groups import ListingGroup, paragraphs
from service.cli.tree import ALIASES, VISIBLE, walk
from service.ops.release import program_version
from service.settings import EXIT_CONFIG

COMMANDS = {path[1:]: command for path, command in walk(aliases=True)}
HEAVY = ("torch", "transformers", "matplotlib", "numpy", "safetensors")
"""What only work needs, and no help text."""
MEASURED = """
import contextlib, io, json, sys, time
from service.cli import app
heavy = {heavy!r}
began = time.process_time()
found = {{}}
for words in {words!r}:
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        code = app([*words, "--help"], standalone_mode=False)
    loaded = [name for name in heavy if name in sys.modules]
    found[" ".join(words)] = [code, len(shown.getvalue()), loaded, time.process_time() - began]
print(json.dumps(found))
"""


def run(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(app, words, env={"COLUMNS": "200", **environment})


def one_sentence(*words: str) -> str:
    """The complaint about a command line that makes no sense."""
    shown = run(*words)
    assert shown.exit_code == 2, shown.output
    assert shown.stdout == ""
    [line] = shown.stderr.splitlines()
    return line


def test_no_help_imports_what_only_work_needs() -> None:
    """In one process for all of them: what one imports, the next would find imported."""
    words = [[], *map(list, COMMANDS)]
    code = MEASURED.format(heavy=HEAVY, words=words)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(shown.stdout)
    assert len(found) == len(COMMANDS) + 1
    for command, (code, length, loaded, seconds) in found.items():
        said = f"jeep {command} --help imports {loaded}, {seconds:.2f} s of CPU time so far"
        assert (code, loaded) == (0, []), said
        assert length > 200, said


def test_the_overview_needs_neither_client_nor_settings() -> None:
    code = (
        "import contextlib, io, json, sys, time\n"
        "from service.cli import app\n"
        "with contextlib.redirect_stdout(io.StringIO()): app(['--help'], standalone_mode=False)\n"
        "print(json.dumps([sorted(sys.modules), time.process_time()]))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, seconds = json.loads(shown.stdout)
    ours = {name for name in modules if name.startswith(("service.", "jeep_core."))}
    said = f"{seconds:.2f} s of CPU time"
    assert ours == {"service.cli", "service.cli.groups", "service.cli.tree"}, said
    assert not {"pydantic_settings", "httpx", *HEAVY} & set(modules), said


def test_the_overview_fits_a_screen() -> None:
    shown = run("--help", COLUMNS="80")
    lines = shown.stdout.splitlines()
    assert shown.exit_code == 0
    assert len(lines) <= 36
    assert max(map(len, lines)) <= 80
    for command in VISIBLE:
        [line] = [line for line in lines if line.endswith(str(command.help))]
        assert f" {command.name} " in line, "its line is not broken"
    panels = dict.fromkeys(str(command.rich_help_panel) for command in VISIBLE)
    assert [line[:15].rstrip() for line in lines[3:] if line[0] != " "] == [*panels, "Options"]
    for alias in ALIASES:
        assert f" {alias.name} " not in shown.stdout


@pytest.mark.parametrize("path", [(), ("tune",), ("jobs",), ("jobs", "list")])
def test_a_short_flag_shows_the_help_too(path: tuple[str, ...]) -> None:
    shown = run(*path, "-h")
    assert (shown.exit_code, shown.stdout) == (0, run(*path, "--help").stdout)


def test_the_version_is_shown_without_loading_a_library() -> None:
    code = (
        "import sys\n"
        "from service.cli import app\n"
        "app(['--version'], standalone_mode=False)\n"
        "sys.exit(bool({'torch', 'numpy', 'pydantic', 'httpx'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == f"jeep {program_version()}\n"


def test_the_help_of_a_command_breaks_lines_at_the_width_alone() -> None:
    """Lines of a docstring are no lines of the terminal: a paragraph fills the width."""
    for path, command in COMMANDS.items():
        for part in str(command.help).split("\n\n"):
            assert "\n" not in part, path
    assert paragraphs("One line.\n\nA paragraph\nof two  lines.") == (
        "One line.\n\nA paragraph of two lines."
    )
    shown = run("tune", "--help", COLUMNS="80").stdout.splitlines()
    begin = next(i for i, line in enumerate(shown) if "A small grid" in line)
    assert not shown[begin + 2].strip(), "two lines are enough for it"


def test_without_a_word_the_overview_is_shown() -> None:
    shown = run()
    assert shown.exit_code == 2
    assert shown.stdout == run("--help").stdout
    assert run("store").stdout == run("store", "--help").stdout


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does_and_so_does_every_flag(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert command.help
    for one in command.params:
        assert one.help, f"{path}: {one.name}"
    shown = run(*path, "--help")
    assert shown.exit_code == 0, shown.exception
    assert str(command.help).splitlines()[0] in shown.stdout


@pytest.mark.parametrize("later", VISIBLE, ids=lambda later: str(later.name))
def test_a_line_of_the_overview_is_how_the_commands_own_help_begins(later: Any) -> None:
    assert str(later.load().help).splitlines()[0] == later.help


@pytest.mark.parametrize("alias", ALIASES, ids=lambda alias: str(alias.name))
def test_an_earlier_name_takes_what_the_command_takes_that_it_stands_for(alias: Any) -> None:
    _, *path = str(alias.help).split()
    flags = [
        sorted(flag for one in command.params for flag in (*one.opts, *one.secondary_opts))
        for command in (COMMANDS[(str(alias.name),)], COMMANDS[tuple(path)])
    ]
    assert flags[0] == flags[1]
    assert COMMANDS[(str(alias.name),)].hidden


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("edti",), "jeep: there is no command 'edti': did you mean 'edit' or 'edits'?"),
        (("xyzzy",), "jeep: there is no command 'xyzzy'; see jeep --help"),
        (("jobs", "lst"), "jeep jobs: there is no command 'lst': did you mean 'list'?"),
        (("--quiet",), "jeep: no such option: --quiet; see jeep --help"),
        (
            ("--versoin",),
            "jeep: no such option: --versoin (did you mean --version); see jeep --help",
        ),
        (("tune",), "jeep tune: missing option --suite; see jeep tune --help"),
        (("versions", "diff"), "jeep versions diff: missing argument 'a'"),
        (
            ("jobs", "--statu", "x"),
            "jeep jobs list: no such option: --statu (did you mean ",
        ),
        (("jobs", "--status", "x"), "jeep jobs list: --status: 'x' is not one of 'queued', "),
        (("evaluate", "s", "--limit", "x"), "jeep evaluate: --limit: "),
        (("tune", "--suite", "s", "--out", "o.yaml", "--cases", "0"), "jeep tune: --cases: "),
        (("tune", "--suite"), "jeep: option --suite requires an argument"),
        (
            ("cancel", "a", "b"),
            "jeep cancel: got unexpected extra argument(s) (b)",
        ),
        (("edit", "/nothing"), "jeep edit: FILE: /nothing cannot be read: No such file"),
    ],
)
def test_a_complaint_is_one_sentence(words: tuple[str, ...], said: str) -> None:
    assert one_sentence(*words).startswith(said)


def test_a_broken_off_command_ends_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("service.cli.commands.store.back_up", interrupted)
    monkeypatch.setattr("service.cli.commands.store.Store.open", lambda *_: None)
    monkeypatch.setattr("service.cli.commands.store.present", lambda _: True)
    shown = run("backup", "copy", "--store", "x")
    assert shown.exit_code == 130
    assert "Traceback" not in shown.output


def test_the_name_in_the_help_is_jeep_however_it_was_started() -> None:
    command = [sys.executable, "-m", "service.cli", "jobs", "cancel", "--help"]
    environment = {**os.environ, "COLUMNS": "80"}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "Usage: jeep jobs cancel [OPTIONS] " in shown.stdout


def test_every_group_with_a_list_shows_it_where_no_command_is_named() -> None:
    groups = {path: one for path, one in COMMANDS.items() if "list" in getattr(one, "commands", {})}
    assert len(groups) > 8
    assert all(isinstance(one, ListingGroup) for one in groups.values())


def test_the_words_that_the_help_of_a_group_lists_are_its_commands() -> None:
    """``Jobs: list, show, follow, cancel.``"""
    seen = 0
    for later in VISIBLE:
        commands = getattr(later.load(), "commands", {})
        _, colon, words = str(later.help).removesuffix(".").partition(": ")
        if commands and colon:
            seen += 1
            assert not {*words.split(", ")} - {*commands}, later.name
    assert seen > 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dtype", "int8"), "--dtype: must be 'auto', 'float32', 'bfloat16' or 'float16' (got"),
        (("--models-dir", "x", "--port", "many"), "--port: must be a whole number (got 'many')"),
    ],
)
def test_a_wrong_setting_is_named_as_it_was_given(words: tuple[str, ...], said: str) -> None:
    shown = run("serve", *words)
    assert shown.exit_code == 2
    assert shown.stderr.startswith(said), shown.stderr
    assert "JEEP_PORT: must be" in run("serve", JEEP_PORT="many").stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./nope", "is not there: name a model folder"),
        ("./empty", "it has no config.json"),
        ("smollm2-135m", "get it once with jeep models get smollm2-135m"),
    ],
)
def test_a_model_that_is_none_is_refused_before_the_service_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    begun = Mock()
    monkeypatch.setattr(running, "early_worker", nullcontext)
    monkeypatch.setattr(running, "_run", begun)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    given = ("--models-dir", "models", "--store", "store")
    shown = run("serve", "--model", name, *given)
    assert shown.exit_code == EXIT_CONFIG, shown.output
    assert name.removeprefix("./") in shown.stderr
    assert said in shown.stderr
    begun.assert_not_called()


def test_a_model_may_be_called_as_a_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = Mock()
    monkeypatch.setattr(running, "early_worker", nullcontext)
    monkeypatch.setattr(running, "_run", begun)
    Library(tmp_path / "models").add(str(TINY_GPTJ), "mine.gguf", "auto", lambda *_: None)
    assert (
        run("serve", "--model", "mine.gguf", "--models-dir", str(tmp_path / "models")).exit_code
        == 0
    )
    begun.assert_called_once()
