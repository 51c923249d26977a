"""``jeep targets``: running servers of other projects that are kept at a version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from service.cli.common import EXIT_FAILED, AsJson, Url, connected, out, show, show_list
from service.cli.groups import group as new_group
from service.cli.listing import Listing
from service.contracts.schemas.targets import TargetKind

if TYPE_CHECKING:
    from service.contracts.schemas.targets import PushTarget

group = new_group("Servers that are kept at a version.", lists=True)

Ref = Annotated[str, typer.Argument(metavar="TARGET", help="Its id or name.")]
Wait = Annotated[bool, typer.Option(help="Wait for the outcome of the push.")]
WAIT_S = 300.0


@group.command("list")
def list_targets(as_json: AsJson = False, url: Url = None) -> None:
    """List the targets, with the version that each has and its lag."""
    with connected(url) as client:
        show_list(client.targets(), as_json, targets_table)


@group.command("show")
def show_target(target: Ref, as_json: AsJson = False, url: Url = None) -> None:
    """Show one target: what it has, how that was proved, and its last error."""
    with connected(url) as client:
        show(client.target(target), as_json, target_shown)


@group.command("add")
def add_target(
    name: Annotated[str, typer.Argument(help="What it will be called.")],
    kind: Annotated[TargetKind, typer.Argument(help="The program that runs there.")],
    address: Annotated[str, typer.Argument(help="Such as http://127.0.0.1:8001.")],
    follow: Annotated[str, typer.Option(help="head, base, a version or a name.")] = "head",
    model: Annotated[str | None, typer.Option(help="What the server calls the base model.")] = None,
    alias: Annotated[
        str | None, typer.Option(help="vLLM: a name that always means the followed version.")
    ] = None,
    type: Annotated[
        str | None, typer.Option(help="llama.cpp: how matrices are stored, such as Q8_0.")
    ] = None,
    secret: Annotated[
        str | None, typer.Option(help="File in JEEP_TARGETS_SECRETS with the server's key.")
    ] = None,
    folder: Annotated[
        str | None, typer.Option(help="Where the server finds targets/artefacts of the store.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Allowed difference of log-probabilities, in nats.")
    ] = None,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Register a running server, bring it to a version and keep it there."""
    with connected(url) as client:
        added = client.add_target(
            name, kind.value, address, follow=follow, model=model, alias=alias, type=type,
            secret=secret, folder=folder, tolerance=tolerance,
        )  # fmt: skip
        _end(client.wait_target(added.id, WAIT_S) if wait else added, wait, as_json)


@group.command("follow")
def follow_version(
    target: Ref,
    version: Annotated[str, typer.Argument(help="head, base, a version or a name.")],
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Let a target follow another version or name."""
    with connected(url) as client:
        changed = client.follow_with_target(target, version)
        _end(client.wait_target(target, WAIT_S) if wait else changed, wait, as_json)


@group.command("sync")
def sync_target(target: Ref, wait: Wait = True, as_json: AsJson = False, url: Url = None) -> None:
    """Look at a target now, and try again what has failed."""
    with connected(url) as client:
        before = client.sync_target(target)
        found = client.wait_target(target, WAIT_S, before.looked_at) if wait else before
        _end(found, wait, as_json)


@group.command("remove")
def remove_target(target: Ref, url: Url = None) -> None:
    """Remove a target; what was loaded on its server is unloaded there."""
    with connected(url) as client:
        client.remove_target(target)
        out.print(f"{target} is removed", markup=False)


def _end(target: PushTarget, waited: bool, as_json: bool) -> None:
    """Show a target; exit code 1 if it was waited for and is not synced."""
    show(target, as_json, target_shown)
    if waited and target.status != "synced":
        raise typer.Exit(EXIT_FAILED)


def targets_table(answers: Sequence[PushTarget]) -> RenderableType:
    """The targets, one a line."""
    table = Listing("name", "kind", "follows", "status", "has", "behind", "ask for", "address")
    for one in answers:
        behind = f"{one.lag.versions}, {one.lag.seconds:.0f} s" if one.lag.versions else ""
        cells = (
            one.name, one.kind.value, one.follow, one.status, one.version or "", behind,
            one.model or "", one.address,
        )  # fmt: skip
        table.add_row(*(Text(cell) for cell in cells))
    return table


def target_shown(answer: PushTarget) -> RenderableType:
    """A target with its proof and its error."""
    lines = []
    if answer.proof is not None and answer.pushed_at is not None:
        proof = answer.proof
        lines.append(
            f"{answer.version} since {answer.pushed_at:%Y-%m-%d %H:%M:%S}, pushed in "
            f"{answer.seconds or 0:.1f} s; {proof.questions} questions, {proof.telling} of them "
            f"telling, answered within {proof.farthest:.3f} nats"
        )
    if answer.error is not None:
        error = answer.error
        lines.append(
            f"{error.code}: {error.message} (tried {error.tries} times since "
            f"{error.since:%H:%M:%S}, again at {error.next_at:%H:%M:%S})"
        )
    return Group(targets_table([answer]), *(Text(line) for line in lines))
