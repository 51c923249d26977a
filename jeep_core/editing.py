"""The library's entry point: facts in, a weight delta out, the model untouched."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jeep_core.atlas.relations import RELATIONS
from jeep_core.editors import DEFAULT, EDITORS, create, hparams_class, preset_hparams
from jeep_core.editors.base import EditContext, EditorOutcome, Keys, LayerUpdate, carry_out
from jeep_core.errors import FieldProblem, InvalidHParams, JeepError, NoMoments
from jeep_core.models.delta import WeightDelta
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import LoadedModel, texts_of
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.moments.source import may_need_moments, text_of
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.facts import Fact, deduplicate, parse_facts
from jeep_core.spec.hparams import EditorHParams, load_preset, presets_for
from jeep_core.spec.positions import check_facts, fact_rows
from jeep_core.values.optimiser import FactTokens, Values
from jeep_core.values.prefixes import sample_prefixes


@dataclass
class EditResult:
    """The result of an edit.  ``facts`` are those edited, duplicates left out.

    ``view`` is the edited model: the version that was given plus ``delta``, with the bytes that
    the delta gives wherever it is applied.  ``inputs``: hashes, by name, of an editor's inputs
    besides prefixes and moments.
    """

    facts: list[Fact]
    delta: WeightDelta
    view: ModelView
    keys: Keys
    layers: list[LayerUpdate]
    values: Values | None
    hparams: EditorHParams
    prefixes: list[str]
    seconds: dict[str, float]
    inputs: dict[str, str]


def edit(
    model: LoadedModel | ModelView,
    facts: Sequence[Fact | Mapping[str, Any]],
    editor: str = DEFAULT,
    *,
    preset: str | None = None,
    hparams: Mapping[str, Any] | None = None,
    presets: Path | None = None,
    prefixes: Sequence[str] | None = None,
    prefix_cache: Path | str | None = None,
    moments: Moments | None = None,
    corpus: Path | str | None = None,
    previous_keys: Mapping[tuple[str, int], Any] | None = None,
    hypernetworks: Path | str | None = None,
    batch_facts: int | None = None,
    memory_bytes: int | None = None,
    monitor: Monitor = NOTHING,
) -> EditResult:
    """Compute the weight delta that makes ``model`` believe ``facts``.

    Args:
        model: a loaded model, or a view of one (to edit on top of earlier edits).
        facts: facts, or mappings with subject and relation + object or prompt + target_new.
        editor: name of the editor.
        preset: name of a preset; default: the first one shipped for this model and editor.
        hparams: changes to the preset; without a preset, the complete hyper-parameters.
        presets: folder of own presets, taken before those shipped.
        prefixes: texts before the prompts, the empty one first; default: sampled.
        prefix_cache: folder in which sampled ones are kept; default: sampled by every edit.
        moments: second moments of the base model; default: those shipped, else over ``corpus``.
        corpus: text file, one document a line; default: the bundled one for bundled models.
        previous_keys: keys (p, d_ff) of earlier edits to preserve, by region name and layer.
        hypernetworks: folder of trained networks, beside the shipped ones.
        batch_facts: facts optimised together at most; default: 32, on CUDA 256.
        memory_bytes: bound on the memory of value optimisation; fewer facts are optimised together.
        monitor: receives progress, may cancel between steps, may hold the computation up.

    Raises:
        InvalidFacts, InvalidHParams, NumericalError
        Whatever ``monitor.check`` raises.
    """
    view = model if isinstance(model, ModelView) else ModelView(model)
    base = view.base
    checked = resolve_hparams(base.name, editor, preset, hparams or {}, base.n_layers, presets)
    kept = prepare_facts(base, facts)
    if checked.moment_layers and moments is None:
        moments = Moments(base, corpus_texts(base.name, corpus))
    if prefixes is None and prefix_cache is not None:
        prefixes = sample_prefixes(base, checked.prefix_count, cache=Path(prefix_cache))
    return edit_checked(
        view,
        kept,
        editor,
        checked,
        prefixes=prefixes,
        moments=moments,
        previous_keys=previous_keys,
        hypernetworks=None if hypernetworks is None else Path(hypernetworks),
        batch_facts=batch_facts,
        memory_bytes=memory_bytes,
        monitor=monitor,
    )


def edit_checked(
    version: ModelView,
    facts: Sequence[Fact],
    editor: str,
    hparams: EditorHParams,
    *,
    prefixes: Sequence[str] | None = None,
    moments: Moments | None = None,
    previous_keys: Mapping[tuple[str, int], Any] | None = None,
    hypernetworks: Path | None = None,
    batch_facts: int | None = None,
    memory_bytes: int | None = None,
    monitor: Monitor = NOTHING,
) -> EditResult:
    """`edit` for values that were checked before: nothing is parsed or validated again.

    ``facts`` went through `parse_facts`, `check_facts` and `deduplicate`, ``hparams`` through
    `validate_hparams`.  ``moments`` are needed if ``hparams.moment_layers`` names any.  Other
    arguments are as in `edit`; ``version`` is left as it is.

    Raises:
        NumericalError
        Whatever ``monitor.check`` raises.
    """
    view = version.fork()
    clock = Clock()
    if hparams.moment_layers:
        assert moments is not None
        moments.ensure(hparams.moment_layers, monitor)
    clock.lap("moments")
    texts = list(prefixes or sample_prefixes(view.base, hparams.prefix_count))
    context = EditContext(
        view=view,
        facts=tokenize(view.base, facts, texts),
        moments=moments,
        previous_keys=previous_keys or {},
        hypernetworks=hypernetworks,
        batch_facts=batch_facts,
        memory_bytes=memory_bytes,
        monitor=monitor,
    )
    outcome, edited = run_editor(editor, context, hparams)
    clock.lap("edit")
    return EditResult(
        facts=list(facts),
        delta=outcome.delta,
        view=edited,
        keys=outcome.keys,
        layers=outcome.layers,
        values=outcome.values,
        hparams=hparams,
        prefixes=texts,
        seconds=clock.seconds,
        inputs=outcome.inputs,
    )


def run_editor(
    editor: str, context: EditContext, hparams: EditorHParams
) -> tuple[EditorOutcome, ModelView]:
    """Run an editor on ``context.view``, and the edited version.

    The edited version is the version that the view held, plus the delta, and has the bytes that
    the delta gives wherever it is applied.  For an editor of this library it is the view that
    was worked on; what another distribution's editor left in its view is not relied on.

    Raises:
        NumericalError
        Whatever ``context.monitor.check`` raises.
    """
    view = context.view
    replaced = dict(view.replaced)
    history = {name: list(updates) for name, updates in view.history.items()}
    with giving_way(view, context.monitor):
        outcome = carry_out(create(editor), context, hparams)
    if editor in EDITORS:
        view.settle(history, outcome.delta)
    else:
        view = ModelView(view.base, replaced, history)
        view.apply(outcome.delta)
    return outcome, view


class Clock:
    """Wall time by phase, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, phase: str) -> None:
        """End a phase."""
        now = time.monotonic()
        self.seconds[phase] = round(now - self._last, 4)
        self._last = now


def resolve_hparams(
    model: str,
    editor: str,
    preset: str | None,
    changes: Mapping[str, Any],
    n_layers: int,
    folder: Path | None = None,
) -> EditorHParams:
    """Hyper-parameters from a preset (default: this model's first) and changes to it.

    ``folder``: the user's own presets.

    Raises:
        InvalidHParams: unknown editor or preset, a preset of another editor, wrong values.
    """
    hparams_class(editor)  # an unknown editor has no presets
    presets = {p.name: p.hparams for p in presets_for(model, folder) if p.editor == editor}
    if preset is not None:  # one made for another model is fine here
        chosen = load_preset(preset, folder)
        if chosen.editor != editor:
            message = f"preset {preset!r} is for the editor {chosen.editor!r}, not {editor!r}"
            raise InvalidHParams([FieldProblem("/preset", "other_editor", message)])
        presets[preset] = chosen.hparams
    return preset_hparams(editor, presets, preset, changes, n_layers)[1]


def prepare_facts(base: LoadedModel, facts: Sequence[Fact | Mapping[str, Any]]) -> list[Fact]:
    """Facts parsed, checked against the tokenizer, and without repetitions.

    A `Fact` is parsed as a mapping is, for it may be made by hand.

    Raises:
        InvalidFacts: with a pointer per wrong field.
    """
    if not facts:
        raise JeepError("there are no facts to edit")
    records = [vars(fact) if isinstance(fact, Fact) else fact for fact in facts]
    parsed = parse_facts(records, relations())
    check_facts(base.tokenizer, parsed, base.max_positions)
    kept, _ = deduplicate(parsed)
    return [parsed[i] for i in kept]


def relations() -> dict[str, str]:
    """The bundled template table: relation name to its first phrasing."""
    return {relation.name: relation.phrasings[0] for relation in RELATIONS}


def tokenize(base: LoadedModel, facts: Sequence[Fact], prefixes: Sequence[str]) -> list[FactTokens]:
    """The rows of every fact."""
    return [FactTokens(*fact_rows(base.tokenizer, fact, prefixes)) for fact in facts]


def corpus_texts(model: str, corpus: Path | str | None) -> list[str]:
    """The documents that second moments are taken over.

    Raises:
        NoMoments: no text is given and the model is not a bundled one.
        JeepError: the file cannot be read, or has no documents.
    """
    path = corpus_path(model, corpus)
    texts = texts_of(path)
    if not texts:
        raise JeepError(f"{path} has no documents: it must hold a text, one document a line")
    return texts


def moments_of(
    base: LoadedModel,
    editors: Iterable[str],
    corpus: Path | None,
    samples: int,
    folder: Path | None,
    imported: str | None,
) -> Moments:
    """Second moments for commands that try these editors; none is read that none of them needs.

    Raises:
        NoMoments, JeepError: as `corpus_texts`; imported ones need the folder they are in.
    """
    if imported is not None and folder is None:
        raise JeepError("--moments needs --folder, the folder that they were imported into")
    needed = any(may_need_moments(hparams_class(editor)) for editor in editors)
    read = needed and imported is None
    texts = corpus_texts(base.name, corpus) if read else []
    return Moments(base, texts, samples, folder, imported)


def corpus_path(model: str, corpus: Path | str | None) -> Path:
    """The text for second moments.

    Raises:
        NoMoments: none is given and the model is not a bundled one.
    """
    found = text_of(model, None if corpus is None else Path(corpus))
    if found is None:
        raise NoMoments(
            f"second moments of {model!r} need a text corpus, one document a line: "
            "corpus=, --corpus or JEEP_CORPUS names the file"
        )
    return found
