"""``jeep versions drift``: how far a version has moved, and because of which edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from service.cli import tables
from service.cli.common import (
    AsJson,
    Url,
    check_facts,
    connected,
    finish,
    read_facts,
    said_only,
    show,
)
from service.cli.listing import Listing

if TYPE_CHECKING:
    from service.contracts.schemas.effects.drift import Drift, DriftFigures, LikelyToken

CONTEXT_SHOWN = 40
"""Characters before a place."""
KINDS = ("kind", "corpus")
"""Fields of a record that may say what kind of text it is, in any letter case."""


def drift(
    version: Annotated[str, typer.Argument(help="Version id, snapshot name or head.")] = "head",
    against: Annotated[str, typer.Option(help="Compare with this one.")] = "base",
    texts: Annotated[
        Path | None, typer.Option(help="JSON lines of text and kind; default: a text that ships.")
    ] = None,
    no_texts: Annotated[bool, typer.Option("--no-texts", help="On prompts alone.")] = False,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts, one a line; default: general knowledge.")
    ] = None,
    no_prompts: Annotated[bool, typer.Option("--no-prompts", help="On texts alone.")] = False,
    max_tokens: Annotated[int | None, typer.Option(help="Of the texts; default: 8,192.")] = None,
    worst: Annotated[int | None, typer.Option(help="Places listed; default: 20.")] = None,
    explained: Annotated[int | None, typer.Option(help="Of these, with facts; default: 5.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the intervals; default: 0.")] = None,
    earlier: Annotated[
        str | None, typer.Option("--show", help="Show an earlier one (drift_…) instead.")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show how far a version has moved.

    On texts and prompts that no edit is about: where its next tokens are other ones than those of
    base, how perplexity changed, and which edits moved the worst places.
    """
    with connected(url) as client:
        if earlier is not None:
            show(client.drift_result(earlier), as_json, drift_table)
            return
        options: dict[str, Any] = {
            "texts": _of_file(texts, no_texts, "texts", _texts),
            "prompts": _of_file(prompts, no_prompts, "prompts", _lines),
            "max_tokens": max_tokens,
            "worst": worst,
            "explained": explained,
            "seed": seed,
        }
        job = client.drift(version, against, **said_only(options))
        drift_id = str(job.resource_id)
        finish(client, job.id, as_json, drift_table, lambda _: client.drift_result(drift_id))


def drift_table(answer: Drift) -> RenderableType:
    """Figures by kind, the places that moved most, and how it was measured."""
    result = answer.result
    if result is None:
        return tables.without_result(answer)
    figures = Listing("kind", "passages", "tokens", "KL", "other token", "perplexity", "by text")
    for one in result.figures:
        figures.add_row(*map(Text, _cells(one)))
    places = Listing("kind", "KL", "context", "before", "now", "moved by")
    for place in result.worst:
        moved = ""
        if place.facts:
            fact = place.facts[0]
            what = fact.prompt or fact.version
            moved = f"{what} ({fact.share:+.0%}; without it {fact.kl_without:.2g})"
        context = place.context
        if len(context) > CONTEXT_SHOWN:
            context = "…" + context[-CONTEXT_SHOWN:]
        shown = (context, _likely(place.before), _likely(place.after), moved)
        places.add_row(*map(Text, (place.kind, f"{place.kl:.3g}", *shown)))
    protocol = result.protocol
    said = [
        f"Asked: {protocol.asked}; {protocol.how}.",
        f"Judged: {protocol.judged}. Compare with: {protocol.comparable}.",
    ]
    if result.not_explained:
        said.append(f"Not explained: {result.not_explained}.")
    head = f"{answer.id}: {result.version} against {result.against}"
    lines = [Text(line, style="dim") for line in said]
    return Group(Text(head, style="bold"), figures, places, *lines)


def _cells(one: DriftFigures) -> tuple[str, ...]:
    kl, changed = one.kl, one.changed
    return (
        one.kind,
        str(one.passages),
        str(one.tokens),
        f"{kl.value:.4f} ({kl.low:.4f} to {kl.high:.4f})",
        f"{changed.value:.1f} % ({changed.low:.1f} to {changed.high:.1f})",
        _change(one.perplexity_before, one.perplexity),
        _change(one.text_perplexity_before, one.text_perplexity),
    )


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{before:.2f} → {after:.2f}"


def _likely(tokens: Sequence[LikelyToken]) -> str:
    return f"{tokens[0].text!r} {tokens[0].probability:.2f}" if tokens else ""


def _of_file(
    file: Path | None, none: bool, what: str, read: Callable[[Path], list[Any]]
) -> list[Any] | None:
    """The contents of a file, nothing where there shall be none, None for the default."""
    if none and file is not None:
        message = f"--{what} and --no-{what} exclude each other: leave one of them out"
        raise typer.BadParameter(message, param_hint=f"--no-{what}")
    return [] if none else None if file is None else read(file)


def _texts(file: Path) -> list[dict[str, str]]:
    """Texts with their kinds, whatever letter case the fields of the records have."""
    found = []
    value = read_facts(file, "--texts")
    records = [value] if isinstance(value, dict) else value  # a single line is an object
    for record in check_facts(records, file, "--texts", "texts"):
        fields = {name.casefold(): value for name, value in record.items()}
        if not isinstance(fields.get("text"), str):
            message = f"{file}: every record needs a field text with a text in it"
            raise typer.BadParameter(message, param_hint="--texts")
        kind = next((str(fields[name]) for name in KINDS if fields.get(name)), None)
        found.append(said_only({"text": fields["text"], "kind": kind}))
    return found


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{file} cannot be read: {error}"
        raise typer.BadParameter(message, param_hint="--prompts") from None
    return [line for line in text.splitlines() if line.strip()]
