"""``jeep explain``: which edits moved an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from service.cli.common import AsJson, Url, connected, said_only, show
from service.cli.listing import Listing

if TYPE_CHECKING:
    from service.contracts.schemas.effects.explanation import ExplainResult

PLACES_SHOWN = 10


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
