"""``exact``: values are optimised as published, with nothing that changes results for speed.

What a preset or a probe has for speed gives way to it; what the caller asks for beside it is
refused.  docs/exact.md has the whole list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from jeep_core.errors import FieldProblem

PUBLISHED: Mapping[str, Any] = {
    "optimizer": "adam",
    "early_prefixes": None,
    "compute_dtype": "model",
}
"""The values of the published procedure, by field."""
PAPER = "-paper"
"""How presets end that have the published optimiser and rate, where others of a model do not."""
_MEANS = {
    "optimizer": "takes the steps of Adam",
    "early_prefixes": "asks a fact after all prefixes in every step",
    "compute_dtype": "takes products in the model's own type",
}


def asks_for(values: object) -> bool:
    """Whether hyper-parameters, as an object or as JSON, ask for ``exact``."""
    found = values.get("exact") if isinstance(values, Mapping) else getattr(values, "exact", False)
    return found is True


def as_published(
    cls: type[BaseModel], chosen: Mapping[str, Any], changes: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Chosen hyper-parameters without what is there for speed, if the changes ask for ``exact``.

    ``changes`` are laid over them afterwards.  More prefixes than the editor's default stay: they
    save no time.
    """
    if not asks_for(changes):
        return chosen
    kept = {name: value for name, value in chosen.items() if name not in PUBLISHED}
    few, most = kept.get("n_prefixes"), _prefixes(cls)
    if isinstance(few, int) and most is not None and few < most:
        del kept["n_prefixes"]
    return kept


def preset_for(names: Mapping[str, Any], changes: Mapping[str, Any]) -> str | None:
    """The preset that is meant where none is named: the first; for ``exact`` a paper's, if any."""
    if asks_for(changes):
        for name in names:
            if name.endswith(PAPER):
                return name
    return next(iter(names), None)


def contradictions(hparams: BaseModel) -> list[FieldProblem]:
    """The hyper-parameters that ``exact`` cannot be beside; pointers are relative."""
    if not asks_for(hparams):
        return []
    found = [
        _problem(name, f"exact {_MEANS[name]}")
        for name, value in PUBLISHED.items()
        if getattr(hparams, name, value) != value
    ]
    few, most = getattr(hparams, "n_prefixes", None), _prefixes(type(hparams))
    if few is not None and most is not None and few < most:
        found.append(_problem("n_prefixes", f"exact asks a fact after {most} prefixes at least"))
    return found


def no_value_search(cls: type[BaseModel], values: Mapping[str, Any]) -> list[FieldProblem]:
    """The problem of ``exact`` for an editor that has no such field; pointers are relative."""
    if "exact" not in values or "exact" in cls.model_fields:
        return []
    message = (
        "this editor optimises no values, so exact has nothing to switch off: leave it out, or "
        "take an editor that does, such as jeep or memit"
    )
    return [FieldProblem("/exact", "no_value_search", message)]


def _prefixes(cls: type[BaseModel]) -> int | None:
    """The number of prefixes of the editor's paper, which is the default of its field."""
    field = cls.model_fields.get("n_prefixes")
    found: int | None = None if field is None else field.default
    return found


def _problem(name: str, means: str) -> FieldProblem:
    message = f"{means}: leave {name} out, or leave exact out"
    return FieldProblem(f"/{name}", "not_exact", message)
