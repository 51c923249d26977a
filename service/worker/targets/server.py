"""The common interface of the kinds of targets."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from service.contracts.schemas import Manifest
from service.contracts.schemas.targets import TargetRecord
from service.worker.targets.connection import Connection

TOP = 5
"""Of the most probable next tokens, those whose log-probabilities are asked for."""
ARTEFACT = re.compile(r"(v[0-9]+)-[0-9a-f]{12}\.[a-z0-9_.]+")
"""The name of an artefact's folder; its group is the version."""


@dataclass(frozen=True)
class Offer:
    """A version as it is offered to a server.

    ``folder`` is its artefact where the server sees it; ``rank`` that of an adapter, 0 where it is
    none.
    """

    manifest: Manifest
    folder: str
    rank: int = 0


@dataclass(frozen=True)
class Seen:
    """The state of a server: its name for the base model, and artefacts that are loaded, by name.

    ``base`` is None where artefacts are whole models beside one another.  ``loaded`` maps the name
    under which a server answers from an artefact to that artefact's path there.
    """

    base: str | None
    loaded: Mapping[str, str] = field(default_factory=dict)


class Server(Protocol):
    """One server of a kind.  Every call may raise `TargetFailed`."""

    format: str
    """The format of the artefacts that it reads: ``peft``, ``merged``, ``gguf``, or a type of GGUF
    such as ``q8_0.gguf``.
    """
    base_needs_artefact: bool
    """Whether it goes back to the base model by loading that as well."""
    replaces: bool
    """Whether what is loaded takes the place of what was there."""

    def __init__(self, record: TargetRecord, connection: Connection) -> None: ...

    def look(self) -> Seen:
        """Its base model and what is loaded now."""
        ...

    def name_of(self, version: str, artefact: str, seen: Seen) -> str:
        """The name under which it is to answer from a version that needs an artefact, of which the
        folder's name is given.
        """
        ...

    def load(self, name: str, offer: Offer, seen: Seen) -> None:
        """Load an artefact under a name; returns when it answers from it."""
        ...

    def unload(self, name: str) -> None:
        """Forget a name; nothing happens if there is no such name."""
        ...

    def top(self, model: str, prompts: Sequence[Sequence[int]]) -> Sequence[Mapping[int, float]]:
        """Log-probabilities (nats) of the most probable next tokens, by id, after each prompt of
        tokens.
        """
        ...


def next_token(model: str, prompts: Sequence[Sequence[int]], **more: Any) -> dict[str, Any]:
    """The body of OpenAI's ``/v1/completions`` that asks for the next token after each prompt."""
    asked = [list(ids) for ids in prompts]
    fixed = {"max_tokens": 1, "temperature": 0, "logprobs": TOP}
    return {"model": model, "prompt": asked, **fixed, **more}


def seen_path(record: TargetRecord, path: Path) -> str:
    """The path of an artefact where the target's server finds it."""
    return f"{posixpath.normpath(record.folder)}/{path.name}" if record.folder else str(path)
