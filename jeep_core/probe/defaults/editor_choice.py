"""Which editor ``"editor": "auto"`` means, and why, in a sentence; no torch, as the api needs it.

The rule, in this order:

1. An editor is out if it cannot edit this model now: no preset and no automatic hyper-parameters,
   second moments that were not imported, no trained network, layers that the model does not have.
2. On top of earlier edits, those that keep nothing of them stand back; so do those that edit for
   one way of asking only, where the model has a chat template.
3. With *figures* of the model (``data/evidence.yaml``; same name, same shape, measured with the
   complete hyper-parameters that the edit would have) the first editor in order that the best one
   is not ahead of: the intervals overlap.  The size that counts is that of the batch and the
   earlier facts together: with kept keys many small batches end where one large batch does
   (docs/lasting.md, docs/results.md; 512 facts, JEEP, Score in 32 batches and in one: GPT-J 91.9
   and 91.6, LLaMA 89.5 and 90.0).
4. Without figures the first editor in order, which is that of Score with many facts (``order``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from jeep_core.editors import DEFAULT_EDITOR, record_of
from jeep_core.errors import FieldProblem, InvalidHParams
from jeep_core.spec.hparams import AUTO, InContexts, bare_name
from jeep_core.text.counting import counted

EVIDENCE = Path(__file__).parent / "data" / "evidence.yaml"
FULL = 5
"""From one fact on a line for so many dimensions of the keys, the editors that were measured lose
answers (docs/lasting.md)."""


@dataclass(frozen=True)
class Figure:
    """Score of an editor in percent, with its 95 % interval."""

    score: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.score:.1f} ({self.low:g}–{self.high:g})"


@dataclass(frozen=True)
class Lasting:
    """The facts left after many batches: ``facts`` in all, ``batch`` at once, keys kept.

    ``written``: per cent of them that the last version still writes, by editor; ``source``: a page.
    """

    facts: int
    batch: int
    source: str
    written: Mapping[str, float]


@dataclass(frozen=True)
class Evidence:
    """Figures of one model, by number of facts edited together, then by editor.

    ``shape``: number of layers and hidden size.  ``measured_with``: by editor, the `complete`
    hyper-parameters of its figures.  ``automatic``: the editors for which ``"hparams": "auto"``
    chooses these.  ``asked``, ``source``: of what, and the page.
    """

    model: str
    shape: tuple[int, int]
    automatic: Collection[str]
    asked: str
    source: str
    measured_with: Mapping[str, Mapping[str, Any]]
    figures: Mapping[int, Mapping[str, Figure]]
    lasting: Lasting | None = None


@dataclass(frozen=True)
class Situation:
    """All that the choice depends on.

    ``shape``: number of layers and hidden size; ``mlp_size``: dimensions of the keys; ``chat``: the
    model has a chat template; ``n_facts``: facts of the batch; ``n_earlier``: live facts of earlier
    batches; ``automatic``: hyper-parameters are to be chosen, although there may be presets;
    ``presets``: the preset that each editor would take, by editor; ``hindrance`` says why an
    editor cannot be used now, or None.
    """

    model: str
    shape: tuple[int, int]
    mlp_size: int
    chat: bool
    n_facts: int
    n_earlier: int
    automatic: bool
    presets: Mapping[str, Mapping[str, Any]]
    hindrance: Callable[[str], str | None]


@dataclass(frozen=True)
class EditorChoice:
    """An editor that nobody named, and the reason in a sentence or two."""

    editor: str
    reason: str


def check_alone(preset: str | None, hparams: Any, states: Sequence[Any] = ()) -> None:
    """Refuse what belongs to one editor where it is still to choose.

    ``preset`` and ``hparams`` may be "auto".

    Raises:
        InvalidHParams: with a pointer per field.
    """
    problems = []
    if preset not in (None, AUTO):
        message = 'a preset belongs to one editor: name that instead of "auto", or leave it out'
        problems.append(FieldProblem("/preset", "with_auto_editor", message))
    if hparams and hparams != AUTO:
        message = (
            'hyper-parameters belong to one editor: name it instead of "auto", or leave hparams '
            'out, or say hparams "auto"'
        )
        problems.append(FieldProblem("/hparams", "with_auto_editor", message))
    if states:
        message = 'states were left by one editor: name that instead of "auto"'
        problems.append(FieldProblem("/states", "with_auto_editor", message))
    if problems:
        raise InvalidHParams(problems)


def choose_editor(where: Situation, evidence: Sequence[Evidence] | None = None) -> EditorChoice:
    """The editor for a batch, by the rule of this module; ``evidence``: default, what ships.

    If no editor can be used it is the default one, whose own refusal then says what is missing.
    """
    hindrances = {name: where.hindrance(name) for name in order()}
    possible = [name for name, why in hindrances.items() if why is None]
    if not possible:
        message = "no editor can be used for this model now; this one is the default"
        return EditorChoice(DEFAULT_EDITOR, message)
    fit = [name for name in possible if _fits(name, where)]
    names = fit or possible
    total = where.n_facts + where.n_earlier
    known = _known(where, shipped_evidence() if evidence is None else evidence)
    compared = _by_figures(known, names, where, total) if known else None
    editor, said = compared or (names[0], _by_order(names[0], where, known))
    parts = [said, *_caveats(editor, where, hindrances, bool(fit), total)]
    if compared and known:
        parts += _beside_figures(known, names, where, total)
    return EditorChoice(editor, "; ".join(parts))


def _fits(editor: str, where: Situation) -> bool:
    """Whether an editor keeps earlier facts, if there are any, and edits chats, if there are."""
    record = record_of(editor)
    cls = record.hparams
    both = issubclass(cls, InContexts) and cls.both_for_chats
    return (record.keeps_earlier or not where.n_earlier) and (both or not where.chat)


def _known(where: Situation, evidence: Sequence[Evidence]) -> Evidence | None:
    """The figures of the model of this name and shape."""
    mine = bare_name(where.model), where.shape
    found = (one for one in evidence if (bare_name(one.model), one.shape) == mine)
    return next(found, None)


def complete(editor: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters with all defaults, but for ``contexts``, of which the evidence tells.

    Raises:
        ValidationError: they are not those of the editor.
    """
    found = record_of(editor).hparams.model_validate(values).model_dump(mode="json")
    return {name: value for name, value in found.items() if name != "contexts"}


def _as_measured(editor: str, where: Situation, known: Evidence) -> bool:
    """Whether an editor would be used with the hyper-parameters that it was measured with."""
    values = where.presets.get(editor)
    if where.automatic or values is None:
        return editor in known.automatic
    try:
        return complete(editor, values) == known.measured_with.get(editor)
    except ValidationError:
        return False


def _by_figures(
    known: Evidence, names: Sequence[str], where: Situation, total: int
) -> tuple[str, str] | None:
    """An editor and its figures, None without figures of any of these editors."""
    size = _size(known, total)
    if size is None:
        return None
    row = {
        name: known.figures[size][name]
        for name in names
        if name in known.figures[size] and _as_measured(name, where, known)
    }
    if not row:
        return None
    best = max(row, key=lambda name: row[name].score)
    editor = next(name for name in row if row[name].high >= row[best].low)
    more = f" (the most measured; {total} are wanted)" if total > size else ""
    said = f"with {counted(size, 'fact')} edited together{more} {editor} has Score {row[editor]}"
    rivals = [name for name in row if name != editor]
    if rivals:
        rival = max(rivals, key=lambda name: row[name].score)
        apart = row[editor].low > row[rival].high
        beside = "ahead of" if apart else "not to be told apart from"
        said += f", {beside} {rival} with {row[rival]}"
    return editor, f"{said}, on {known.model} ({known.asked}; {known.source})"


def _size(known: Evidence, total: int) -> int | None:
    """The number of facts whose figures count for ``total`` of them; None without figures."""
    if not known.figures:
        return None
    return min((n for n in known.figures if n >= total), default=max(known.figures))


def _beside_figures(
    known: Evidence, names: Sequence[str], where: Situation, total: int
) -> list[str]:
    """Clauses at the end: what long sequences left, and the figures that do not count."""
    said, size = [], _size(known, total)
    lasting = known.lasting
    if size is not None and lasting is not None and where.n_earlier and total > size:
        left = {
            name: f"{lasting.written[name]:.1f} % with {name}"
            for name in names
            if name in lasting.written and _as_measured(name, where, known)
        }
        if left:
            said.append(
                f"of {counted(lasting.facts, 'fact')} in batches of {lasting.batch} the last "
                f"version wrote {', '.join(left.values())} ({lasting.source})"
            )
    others = [
        name
        for name in names
        if size is not None and name in known.figures[size] and not _as_measured(name, where, known)
    ]
    if others:
        said.append(f"not compared (measured with other hyper-parameters): {', '.join(others)}")
    return said


def _by_order(editor: str, where: Situation, known: Evidence | None) -> str:
    """Why an editor is taken that no figures of the model speak for."""
    missing = f"there are no figures of {bare_name(where.model)}"
    if known:
        missing += f" with these hyper-parameters ({known.source} has some with others)"
    if editor == DEFAULT_EDITOR:
        return (
            f"{missing}: {editor} has the best Score of the editors measured on the bundled models "
            "with many facts, and none is ahead of it by more than chance on others "
            "(docs/results.md, docs/real-models.md)"
        )
    return f"{missing}: of the editors that can be used {editor} is the first by docs/results.md"


def _caveats(
    editor: str,
    where: Situation,
    hindrances: Mapping[str, str | None],
    fit: bool,
    total: int,
) -> list[str]:
    """Further clauses: earlier facts, too many facts, why the default editor is not taken."""
    said = []
    if where.n_earlier:
        earlier = counted(where.n_earlier, "earlier fact")
        kept = record_of(editor).keeps_earlier
        said.append(f"it {'takes' if kept else 'does not take'} {earlier} into account")
    if not fit and where.chat:
        said.append("no editor that can be used would edit for the chat and keep earlier facts")
    if total * FULL > where.mlp_size:
        said.append(
            f"{total} facts are more than a fifth of the {where.mlp_size} dimensions of the keys, "
            "from where the editors that were measured lose answers (docs/lasting.md)"
        )
    if editor != DEFAULT_EDITOR and (why := hindrances[DEFAULT_EDITOR]):
        said.append(f"{DEFAULT_EDITOR} cannot be used: {why}")
    return said


def order() -> tuple[str, ...]:
    """The editors that can be chosen: all built-in ones, the best with many facts first."""
    return tuple(_shipped()["order"])


@cache
def shipped_evidence() -> tuple[Evidence, ...]:
    """The figures that ship."""
    return tuple(map(_evidence, _shipped()["models"]))


@cache
def _shipped() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(EVIDENCE.read_text(encoding="utf-8"))
    return found


def _evidence(one: Mapping[str, Any]) -> Evidence:
    figures = {
        int(n): {name: Figure(*map(float, values)) for name, values in row.items()}
        for n, row in one["figures"].items()
    }
    layers, hidden = one["shape"]
    lasting = Lasting(**one["lasting"]) if "lasting" in one else None
    # fields that came after a measurement have their defaults, which are what was measured
    used = {name: complete(name, values) for name, values in one["measured_with"].items()}
    found = {"shape": (layers, hidden), "figures": figures, "lasting": lasting}
    return Evidence(**{**one, **found, "measured_with": used})
