"""``jeep versions``, and asking and moving between versions: ``generate``, ``rollback``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import tables
from service.cli.commands.effects import checks, drifts
from service.cli.common import AsJson, Url, connected, out, show, show_list
from service.cli.groups import group as new_group

Version = Annotated[str, typer.Argument(help="Version id, snapshot name, head or base.")]

Why = Annotated[str, typer.Option(help="Kept in the reflog.")]

group = new_group(
    "Versions: list, diff, name, export, check, drift.",
    lists=True,
    epilog="jeep generate asks versions, jeep rollback moves head to one.",
)


def generate(
    prompts: Annotated[list[str], typer.Argument(help="One or several prompts.")],
    version: Annotated[list[str] | None, typer.Option(help="Repeat to compare.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of every answer.")] = 16,
    temperature: Annotated[float, typer.Option(help="0: greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Of the sampling.")] = None,
    min_version: Annotated[
        str | None, typer.Option(help="Answer from it, or from what was head after it.")
    ] = None,
    candidate: Annotated[list[str] | None, typer.Option(help="Score it; repeatable.")] = None,
    join: Annotated[str | None, typer.Option(help="Before candidates: auto, space, none.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Each prompt is a user's message.")] = False,
    system: Annotated[str | None, typer.Option(help="A system message before each.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Ask versions, plainly or in a chat."""
    from service.contracts.schemas import GenerateResult

    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "min_version": min_version,
        "candidates": candidate,
        "join": join,
    }
    asked: list[dict[str, Any]] = [{"prompts": prompts}]
    if chat or system is not None:
        first = [] if system is None else [{"role": "system", "content": system}]
        asked = [{"messages": [*first, {"role": "user", "content": text}]} for text in prompts]
    with connected(url) as client:
        found = [client.generate(version=version or "head", **one, **options) for one in asked]
        every = GenerateResult(results=[answer for one in found for answer in one.results])
        show(every, as_json, tables.generations)


def rollback(
    version: Annotated[str, typer.Argument(help="Version id, snapshot name or base.")],
    why: Why = "",
    cancel_queued: Annotated[bool, typer.Option(help="Cancel jobs not yet begun.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Move head to a version."""
    with connected(url) as client:
        show(client.rollback(version, why, cancel_queued), as_json, tables.rollback)


@group.command("list")
def list_versions(as_json: AsJson = False, url: Url = None) -> None:
    """List the versions, newest first."""
    with connected(url) as client:
        show_list(list(client.snapshots()), as_json, tables.snapshots)


@group.command("show")
def show_version(version: Version = "head", as_json: AsJson = False, url: Url = None) -> None:
    """Show one version."""
    with connected(url) as client:
        show(client.snapshot(version), as_json, tables.snapshot)


@group.command("diff")
def compare_versions(
    a: Annotated[str, typer.Argument(help="Version id or name.")],
    b: Annotated[str, typer.Argument(help="The version to compare with it.")] = "head",
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show the facts and tensors in which version B differs from A."""
    with connected(url) as client:
        show(client.diff(a, b), as_json, tables.difference)


@group.command("name")
def name_version(
    name: Annotated[str, typer.Argument(help="The new name.")],
    version: Annotated[str, typer.Option(help="Version id or name.")] = "head",
    url: Url = None,
) -> None:
    """Name a version."""
    with connected(url) as client:
        out.print(f"{name} is {client.name_snapshot(name, version).id}", markup=False)


@group.command("export")
def export(
    version: Version,
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    format: Annotated[
        str | None, typer.Option(help="A format of the service; default: safetensors.")
    ] = None,
    url: Url = None,
) -> None:
    """Write the tensors in which a version differs from base to a file."""
    with connected(url) as client:
        out.print(f"{file}: {client.export(version, file, format):,} bytes", markup=False)


@group.command("facts")
def facts(
    subject: Annotated[str | None, typer.Argument(help="Also what it superseded.")] = None,
    version: Annotated[str, typer.Option(help="Version id or snapshot name.")] = "head",
    contains: Annotated[
        str | None, typer.Option(help="Text in the subject, the prompt or the new answer.")
    ] = None,
    holds: Annotated[
        bool | None,
        typer.Option("--holds/--missing", help="Those that held when last asked, or did not."),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List the live facts of a version, or all about one subject."""
    with connected(url) as client:
        show_list(list(client.facts(subject, version, contains, holds)), as_json, tables.facts)


@group.command("activate")
def activate(
    version: Annotated[str, typer.Argument(help="A staged version: its id or its name.")],
    why: Why = "",
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Make a staged version head (jeep edit --stage writes one)."""
    with connected(url) as client:
        show(client.activate(version, why), as_json, tables.activation)


group.command("check")(checks.check)
group.command("drift")(drifts.drift)
