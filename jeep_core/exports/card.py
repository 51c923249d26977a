"""The page that says what an exported folder is: ``README.md``, with the fields of model hubs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jeep_core import atlas
from jeep_core.models.library import licence_in_words, licence_of_record
from jeep_core.spec.facts import fill

CARD = "README.md"
FACTS = "facts.jsonl"
"""Where all facts are, if they are given."""
SHOWN = 20
"""Facts that the page itself shows."""
UNKNOWN = "unknown"
_SHORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
"""A licence's short name; others are sentences."""


@dataclass(frozen=True)
class Origin:
    """Where an exported version comes from.

    ``base`` names the model, in words; ``hub_id`` is its name on a hub, None if it is on none that
    is known.  ``base_sha256`` and ``weights_sha256`` are hashes over all weights of
    base and version.  ``facts`` are those that the version was made to say, None if they are not
    to be given; ``n_facts`` counts them.  ``licence``: of the base model, None if it names none.
    """

    base: str
    base_sha256: str
    version: str
    weights_sha256: str
    n_facts: int
    editors: Sequence[str]
    created_at: str
    release: str
    licence: str | None = None
    hub_id: str | None = None
    names: Sequence[str] = ()
    facts: Sequence[Mapping[str, Any]] | None = None

    def record(self) -> dict[str, Any]:
        """All but the facts, for `jeep_core.exports.folders.write_record`."""
        return {
            "base": {"name": self.base, "sha256": self.base_sha256, "licence": self.licence},
            "version": self.version,
            "names": list(self.names),
            "weights_sha256": self.weights_sha256,
            "n_facts": self.n_facts,
            "editors": list(self.editors),
            "created_at": self.created_at,
            "made_by": f"jeep-edit {self.release}",
        }


def licence_of(folder: Path) -> str | None:
    """The licence that a model folder's own card or the record of its source names.

    That of a bundled model is known; several are in one text, with commas between.
    """
    bundled = any(folder.resolve() == own.resolve() for own in atlas.MODELS.values())
    return (
        _licence_of_card(folder)
        or licence_of_record(folder)
        or (atlas.LICENCE if bundled else None)
    )


def _licence_of_card(folder: Path) -> str | None:
    """The licence in the first lines of a folder's card, if it is there."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    start, _, rest = text.partition("---\n")
    fields, closed, _ = rest.partition("\n---")
    if start.strip() or not closed:
        return None
    try:
        found = yaml.safe_load(fields)
    except yaml.YAMLError:
        return None
    if not isinstance(found, dict):
        return None
    named = (found.get(f"license{end}") for end in ("", "_name", "_link"))
    return licence_in_words(*named)


def write_card(folder: Path, origin: Origin, library: str, use: str, said: str) -> None:
    """Write the card into a folder, and the facts beside it if there are any to give.

    ``library``: what loads the folder, as hubs name it; ``use``: a command or program that does;
    ``said``: a paragraph on the format.
    """
    # hubs refuse a base model that is no id of theirs
    named = {} if origin.hub_id is None else {"base_model": origin.hub_id}
    fields: dict[str, Any] = {
        **named,
        "library_name": library,
        "tags": ["model-editing", "knowledge-editing"],
    }
    if origin.licence is not None:
        fields |= licence_fields(origin.licence)
    head = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    names = f" ({', '.join(origin.names)})" if origin.names else ""
    editors = ", ".join(origin.editors) or "none"
    lines = [
        f"---\n{head}---",
        f"\n# {_plain(origin.base)}, edited\n",
        f"Version {origin.version}{_plain(names)} of an edited model. {said}\n",
        "| | |",
        "|---|---|",
        f"| base model | {_plain(origin.base)} |",
        f"| its weights, SHA-256 | `{origin.base_sha256}` |",
        f"| this version's weights, SHA-256 | `{origin.weights_sha256}` |",
        f"| edited facts | {origin.n_facts} |",
        f"| editors | {editors} |",
        f"| licence of the base model | {_plain(origin.licence or UNKNOWN)} |",
        f"| written | {origin.created_at} by jeep-edit {origin.release} |",
        f"\n## Use\n\n```\n{use}\n```",
        *_facts(folder, origin),
    ]
    (folder / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")


def licence_fields(licence: str) -> dict[str, Any]:
    """The fields of model hubs for a licence in words, with its address in brackets if it has one.

    Hubs know licences by short names in small letters, one or a list with commas between; any
    other is theirs ``other``, with a name.
    """
    several = licence.split(", ")
    if len(several) > 1 and all(map(_SHORT.fullmatch, several)):
        return {"license": [one.lower() for one in several]}
    name, _, address = licence.partition(" (")
    name, address = name.strip(), address.rstrip(")")
    if _SHORT.fullmatch(name):
        return {"license": name.lower()}
    link = {"license_link": address} if address else {}
    return {"license": "other", "license_name": "-".join(name.lower().split()), **link}


def _facts(folder: Path, origin: Origin) -> list[str]:
    """The section on facts; all of them go into a file of their own."""
    if not origin.facts:
        return []
    text = "".join(json.dumps(fact, ensure_ascii=False) + "\n" for fact in origin.facts)
    (folder / FACTS).write_text(text, encoding="utf-8")
    shown = [
        f"| {_plain(fill(fact['prompt'], fact['subject']))} | {_plain(fact['target_new'])} |"
        for fact in origin.facts[:SHOWN]
    ]
    more = len(origin.facts) - len(shown)
    rest = [f"\n{more} more are in `{FACTS}`."] if more else []
    return ["\n## Edited facts\n", "| prompt | answer |", "|---|---|", *shown, *rest]


def _plain(text: str) -> str:
    """A text as a cell of a table shows it: one line, nothing in it has a meaning of its own."""
    marked = "\\`*_{}[]<>#|!"
    one_line = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in marked else letter for letter in one_line)
