"""``jeep versions``, and asking, explaining and moving between versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from service.cli import tables
from service.cli.common import AsJson, Url, connected, out, said_only, show, show_list
from service.cli.groups import group as new_group
from service.cli.listing import Listing

if TYPE_CHECKING:
    from service.contracts.schemas.effects.explanation import ExplainResult

PLACES_SHOWN = 10
Version = Annotated[str, typer.Argument(help="Version id, snapshot name, head or base.")]

Why = Annotated[str, typer.Option(help="Kept in the reflog.")]

group = new_group(
    "Versions: list, compare, name, export.",
    lists=True,
    epilog="jeep generate asks versions, jeep rollback moves head to one.",
)


def generate(
    prompts: Annotated[list[str], typer.Argument(help="One or several prompts.")],
    version: Annotated[list[str] | None, typer.Option(help="Repeat to compare.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of every answer.")] = 16,
    temperature: Annotated[float, typer.Option(help="0: greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Of the sampling.")] = None,
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


def explain(
    prompt: Annotated[str, typer.Argument(help="The prompt, or a user's message with --chat.")],
    answer: Annotated[
        str | None, typer.Option(help="Explain its probability; default: the likeliest token's.")
    ] = None,
    version: Annotated[str, typer.Option(help="Version id, snapshot name, head.")] = "head",
    top: Annotated[int | None, typer.Option(help="Facts at each place; default: 5.")] = None,
    join: Annotated[str | None, typer.Option(help="Before it: auto, space, none.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a user's message.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Say which edits moved an answer.

    At which layers and tokens, and how probable the answer would be without each.
    """
    asked: dict[str, Any] = {"prompt": prompt}
    if chat:
        asked = {"messages": [{"role": "user", "content": prompt}]}
    options = said_only({"answer": answer, "top": top, "join": join})
    with connected(url) as client:
        show(client.explain(version=version, **asked, **options), as_json, explanation_table)


def explanation_table(found: ExplainResult) -> RenderableType:
    """The answer's probability by layer, the facts that moved it, the places changed most."""
    answer = f"P({found.answer.strip()!r})"
    head = f"{found.version}: {answer} {found.base_probability:.4g} → {found.probability:.4g}"
    layers = Listing("edited up to layer", answer, "change")
    for one in found.layers:
        layers.add_row(str(one.layer), f"{one.probability:.4g}", f"{one.change:+.4g}")
    facts = Listing("fact", "new answer", "version", "share", "without it")
    for fact in found.facts:
        shown = fact.prompt or "the whole batch"
        without = "" if fact.without is None else f"{fact.without:.4g}"
        cells = (shown, fact.target_new or "", fact.version, f"{fact.share:+.1%}", without)
        facts.add_row(*map(Text, cells))
    warnings = [Text(said, style="yellow") for said in found.warnings]
    title = Text(head, style="bold")
    return Group(title, layers, facts, _places_table(found), *warnings)


def _places_table(found: ExplainResult) -> Listing:
    """The places to whose outputs edits add most, against the output without them."""
    table = Listing("layer", "token", "added", "mostly by")
    places = [(matrix, place) for matrix in found.matrices for place in matrix.places]
    for matrix, place in sorted(places, key=lambda pair: -pair[1].relative)[:PLACES_SHOWN]:
        mostly = ""
        if place.facts:
            fact, part = found.facts[place.facts[0].fact], place.facts[0]
            mostly = f"{fact.prompt or fact.version} ({part.share:+.0%})"
        token = f"{place.position} {found.tokens[place.position]!r}"
        table.add_row(*map(Text, (str(matrix.layer), token, f"{place.relative:.1%}", mostly)))
    return table


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
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List the live facts of a version, or all about one subject."""
    with connected(url) as client:
        show_list(list(client.facts(subject, version)), as_json, tables.facts)


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
