"""Every command of ``jeep`` by name, in the order and the panels of ``jeep --help``.

A verb's line is the first line of its docstring, a group's line the help of the group.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from service.cli.groups import Group, Later, sentence

SERVICE, DAILY, STUDIES, GROUPS = "Run the service", "Daily", "On this machine", "Groups"
HELP = "Show this, or the help of a command."

VISIBLE = (
    Later("serve", "running:serve", "Run everything in the foreground.", SERVICE),
    Later("demo", "running:demo", "Show an edit of the bundled model.", SERVICE),
    Later("demo-real", "running:demo_real", "The same with a real model.", SERVICE),
    Later("api", "running:api", "Run the api alone.", SERVICE),
    Later("worker", "running:worker", "Run a worker alone.", SERVICE),
    Later("edit", "edits:edit", "Submit facts, or records of any suite.", DAILY),
    Later("generate", "versions:generate", "Ask versions, plainly or in a chat.", DAILY),
    Later("explain", "effects.explanations:explain", "Say which edits moved an answer.", DAILY),
    Later("rollback", "versions:rollback", "Move head to a version.", DAILY),
    Later("export", "outward.exports:export", "Export a version for other programs.", DAILY),
    Later("evaluate", "evaluations:evaluate", "Measure versions, or try an editor.", DAILY),
    Later("probe", "probes:probe", "Find the layers that an edit should write.", STUDIES),
    Later("plan", "plans:plan", "Say what fits on a GPU, and how long edits take.", STUDIES),
    Later("tune", "studies:tune", "Search a preset on a validation suite.", STUDIES),
    Later("reproduce", "studies:reproduce", "Make the paper's tables and figures.", STUDIES),
    Later("backup", "store:backup", "Copy a store, also while it is in use.", STUDIES),
    Later("restore", "store:restore", "Make a store from a backup.", STUDIES),
    Later("models", "models:group", "Models by name: list, get, add, show.", GROUPS),
    Later("edits", "edits:group", "Batches of facts: list, show, revert.", GROUPS),
    Later(
        "versions", "versions:group", "Versions: list, diff, name, export, check, drift.", GROUPS
    ),
    Later("suites", "suites:group", "Evaluation suites: list, add.", GROUPS),
    Later("evaluations", "evaluations:group", "Measurements: list, show, compare.", GROUPS),
    Later(
        "exports", "outward.exports:group", "Exported versions: list, show, get, remove.", GROUPS
    ),
    Later("jobs", "jobs:group", "Jobs: list, show, follow, cancel.", GROUPS),
    Later("probes", "probes:group", "Probes by a running service.", GROUPS),
    Later("networks", "networks:group", "Trained networks of editors: list, train.", GROUPS),
    Later("moments", "moments:group", "Second moments: compute, merge, import.", GROUPS),
    Later("store", "store:group", "Check a store, show its size, tidy it up.", GROUPS),
    Later("keys", "keys:group", "API keys: create, list, revoke.", GROUPS),
    Later("targets", "outward.targets:group", "Servers that are kept at a version.", GROUPS),
    Later("audit", "audit:group", "Who did what to which version.", GROUPS),
)
ALIASES = (
    Later("facts", "versions:facts", "jeep versions facts", hidden=True),
    Later("revert", "edits:revert", "jeep edits revert", hidden=True),
    Later("snapshots", "versions:list_versions", "jeep versions list", hidden=True),
    Later("name", "versions:name_version", "jeep versions name", hidden=True),
    Later("activate", "versions:activate", "jeep versions activate", hidden=True),
    Later("cancel", "jobs:cancel", "jeep jobs cancel", hidden=True),
    Later("hypernetworks", "networks:list_networks", "jeep networks list", hidden=True),
    Later("submit-hypernetwork", "networks:submit", "jeep networks submit", hidden=True),
    Later("train-hypernetwork", "networks:train", "jeep networks train", hidden=True),
)
"""Names of earlier releases; the line of each is the command's present name."""


class Root(Group):
    """``jeep``: every complaint about the command line is one sentence."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands.update({str(one.name): one for one in (*VISIBLE, *ALIASES)})

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The overview: every command on a line of its own, so that all of them fit a screen."""
        formatter.write("\n".join(_overview(ctx, str(self.help))))

    def main(self, *args: Any, **options: Any) -> Any:
        """As typer's."""
        standalone = options.pop("standalone_mode", True)
        options |= {"prog_name": "jeep", "standalone_mode": False}
        if not standalone:
            return super().main(*args, **options)
        try:
            code = super().main(*args, **options)
        except typer.TyperException as error:
            from service.cli.common import complain

            complain(sentence(error))
            sys.exit(error.exit_code)
        except ModuleNotFoundError as error:
            from service.cli.common import EXIT_USAGE, complain
            from service.cli.extras import advice

            said = advice(error)
            if said is None:
                raise
            complain(f"jeep: {said}")
            sys.exit(EXIT_USAGE)
        except typer.Abort:
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)


def _overview(ctx: Any, line: str) -> Iterator[str]:
    """The usage, ``line``, then commands and options, beside the names of their panels."""
    rows = [(one.rich_help_panel, one.name, one.help) for one in VISIBLE]
    rows += [("Options", "--version", "Show the version."), ("Options", "-h, --help", HELP)]
    left, middle = (max(len(str(row[i])) for row in rows) + 2 for i in (0, 1))
    yield ctx.get_usage()
    yield f"{line}\n"
    panel = None
    for first, name, said in rows:
        shown = "" if first == panel else str(first)
        yield typer.style(f"{shown:<{left}}", bold=True) + f"{name:<{middle}}{said}"
        panel = first


def _show_version(wanted: bool) -> None:
    if wanted:
        from service.ops.release import program_version

        typer.echo(f"jeep {program_version()}")
        raise typer.Exit


app = typer.Typer(
    cls=Root,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _jeep(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Edit what a language model believes; every edit can be taken back."""


def walk(aliases: bool = False) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group with its path (``("jeep", "jobs", "list")``), all imported."""
    for later in (*VISIBLE, *(ALIASES if aliases else ())):
        command = later.load()
        path = ("jeep", str(later.name))
        yield path, command
        for name, inner in getattr(command, "commands", {}).items():
            yield (*path, name), inner
