"""The library's entry point: facts in, a weight delta out, the model untouched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jeep_core.atlas.relations import RELATIONS
from jeep_core.editors import (
    AUTO_EDITOR,
    DEFAULT_EDITOR,
    EDITORS,
    check_editor,
    create,
    needs_choice,
    preset_hparams,
)
from jeep_core.editors.base import (
    EditContext,
    EditorOutcome,
    Keys,
    LayerUpdate,
    State,
    carry_out,
)
from jeep_core.editors.presets import own_presets
from jeep_core.errors import FieldProblem, InvalidHParams, JeepError
from jeep_core.executors.here import HERE
from jeep_core.executors.work import Executor
from jeep_core.models.delta import WeightDelta
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.moments.of_texts import moments_over
from jeep_core.moments.source import origin_of
from jeep_core.monitor import NOTHING, Clock, Monitor
from jeep_core.probe.anchor import anchor_for
from jeep_core.probe.defaults.choose import choose
from jeep_core.probe.defaults.editor_choice import check_alone
from jeep_core.probe.defaults.from_record import Chosen, asked_for
from jeep_core.probe.defaults.possible import editor_for
from jeep_core.spec.chats import in_chat, parse_chat_facts
from jeep_core.spec.facts import Fact, deduplicate
from jeep_core.spec.hparams import AUTO, Contexts, EditorHParams, contexts_of
from jeep_core.spec.positions import check_facts, context_rows
from jeep_core.text.chat import has_template
from jeep_core.values.anchor import anchor_warnings
from jeep_core.values.optimiser import FactTokens, Values
from jeep_core.values.prefixes import sample_prefixes


@dataclass
class EditResult:
    """The result of an edit.  ``facts`` are those edited, duplicates left out.

    ``view`` is the edited model: the version that was given plus ``delta``, with the bytes that
    the delta gives wherever it is applied.  ``keys`` (m, d_ff), by region name and layer, are what
    its matrices were written with.  ``state`` is what the editor keeps for the next edit on top of
    this one (``states`` of `edit`).  ``inputs``: hashes, by name, of an editor's inputs
    besides prefixes and moments.  ``hparams_from``: given, preset, kept probe, probe now or depths;
    ``hparams_rule``: the number of the rule that made them, None where a preset or the caller did;
    ``moments_from``: the text or imported statistics, None where none are needed or they were
    given; ``warnings``: what the user should know about what was chosen, and about facts that
    ``norm_anchor`` left out.  ``editor``: the one that
    was used; ``editor_reason``: why, if it was not named.
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
    state: State
    editor: str
    editor_reason: str | None = None
    hparams_from: str = "given"
    hparams_rule: int | None = None
    moments_from: str | None = None
    warnings: tuple[str, ...] = ()


def edit(
    model: LoadedModel | ModelView,
    facts: Sequence[Fact | Mapping[str, Any]],
    editor: str = DEFAULT_EDITOR,
    *,
    preset: str | None = None,
    hparams: Mapping[str, Any] | Literal["auto"] | None = None,
    presets: Path | None = None,
    probes: Path | None = None,
    prefixes: Sequence[str] | None = None,
    prefix_cache: Path | str | None = None,
    moments: Moments | None = None,
    corpus: Path | str | None = None,
    previous_keys: Mapping[tuple[str, int], Any] | None = None,
    hypernetworks: Path | str | None = None,
    states: Sequence[State] = (),
    batch_facts: int | None = None,
    memory_bytes: int | None = None,
    executor: Executor = HERE,
    monitor: Monitor = NOTHING,
) -> EditResult:
    """Compute the weight delta that makes ``model`` believe ``facts``.

    Args:
        model: a loaded model, or a view of one (to edit on top of earlier edits).
        facts: facts, or mappings with subject and relation + object or prompt + target_new.
        editor: name of the editor, or "auto": chosen by model, number of facts and
            ``previous_keys``; then without preset, hparams (but ``"auto"``) and states.
        preset: name of a preset; default: the first one shipped for this model and editor.
        hparams: changes to the preset, or the complete hyper-parameters.  Without a preset for the
            model, or with ``"auto"`` for one, what is left out is chosen by a probe.
        presets: folder of own presets, taken before those shipped.
        probes: folder in which a probe of the model, and ``norm_anchor``'s norm, is kept.
        prefixes: texts before the prompts, the empty one first; default: sampled.
        prefix_cache: folder in which sampled ones are kept; default: sampled by every edit.
        moments: second moments of the base model; default: those shipped, else over ``corpus``.
        corpus: text file, one document a line; default: a bundled model's own, else the English
            one that ships.
        previous_keys: keys (p, d_ff) of earlier edits to keep, by region and layer, oldest first.
        hypernetworks: folder of trained networks, beside the shipped ones.
        states: ``state`` of this editor's earlier results that ``model`` was made by, oldest first.
        batch_facts: facts optimised together at most; default: 32, on CUDA 256.
        memory_bytes: bound on what value optimisation holds, and on what writing keeps of rows.
        executor: does what is independent, such as ``Processes(2)``; default: this process.
        monitor: receives progress, may cancel between steps, may hold the computation up.

    Raises:
        InvalidFacts, InvalidHParams, NumericalError
        Whatever ``monitor.check`` raises.
    """
    view = model if isinstance(model, ModelView) else ModelView(model)
    base = view.base
    reason = None
    check_editor(editor)
    if editor == AUTO_EDITOR:
        check_alone(preset, hparams, states)
        own = None if hypernetworks is None else Path(hypernetworks)
        automatic = AUTO in (preset, hparams)
        choice = editor_for(
            base, len(facts), previous_keys or {}, automatic, presets=presets, networks=own
        )
        editor, reason = choice.editor, choice.reason
    known = own_presets(base.name, editor, preset, presets, base.shape)
    chosen = resolve(base, editor, known, preset, hparams or {}, probes, monitor)
    kept = prepare_facts(base, facts, contexts_of(chosen.hparams))
    moments_from = None
    if chosen.hparams.moment_layers and moments is None:
        named = None if corpus is None else Path(corpus)
        moments_from = origin_of(base.name, named, None)
        moments = moments_over(base, named)
    if prefixes is None and prefix_cache is not None:
        count = chosen.hparams.prefix_count
        prefixes = sample_prefixes(base, count, cache=Path(prefix_cache))
    result = edit_checked(
        view,
        kept,
        editor,
        chosen.hparams,
        prefixes=prefixes,
        moments=moments,
        previous_keys=previous_keys,
        hypernetworks=None if hypernetworks is None else Path(hypernetworks),
        states=states,
        probes=probes,
        batch_facts=batch_facts,
        memory_bytes=memory_bytes,
        executor=executor,
        monitor=monitor,
    )
    result.hparams_from = chosen.source
    result.warnings = (*chosen.warnings, *result.warnings)
    result.hparams_rule = chosen.rule
    result.moments_from, result.editor_reason = moments_from, reason
    return result


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
    states: Sequence[State] = (),
    probes: Path | None = None,
    batch_facts: int | None = None,
    memory_bytes: int | None = None,
    executor: Executor = HERE,
    monitor: Monitor = NOTHING,
) -> EditResult:
    """`edit` for values that were checked before: nothing is parsed or validated again.

    ``facts`` went through `parse_facts`, `check_facts` and `deduplicate`, ``hparams`` through
    `validate_hparams`.  ``moments`` are needed if ``hparams.moment_layers`` names any.  Other
    arguments are as in `edit`, such as ``previous_keys`` (p, d_ff); ``version`` stays as it is.

    Raises:
        NumericalError
        Whatever ``monitor.check`` raises.
    """
    view = version.fork()
    clock = Clock()
    if hparams.moment_layers:
        assert moments is not None
        moments.ensure(hparams.moment_layers, monitor, executor)
    clock.lap("moments")
    texts = list(prefixes or sample_prefixes(view.base, hparams.prefix_count))
    anchor = anchor_for(
        view.base,
        editor,
        hparams,
        texts,
        folder=probes,
        memory=memory_bytes,
        executor=executor,
        monitor=monitor,
    )
    if anchor is not None:
        clock.lap("anchor")
    context = EditContext(
        view=view,
        facts=tokenize(view.base, facts, texts, contexts_of(hparams)),
        moments=moments,
        # not ``or``: the service's are read when they are asked for
        previous_keys={} if previous_keys is None else previous_keys,
        hypernetworks=hypernetworks,
        states=states,
        anchor=None if anchor is None else anchor.wanted,
        batch_facts=batch_facts,
        memory_bytes=memory_bytes,
        executor=executor,
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
        inputs=outcome.inputs | ({} if anchor is None else {"anchor": anchor.sha256}),
        state=outcome.state,
        editor=editor,
        warnings=anchor_warnings(outcome.values),
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
        view = ModelView(view.base, replaced, history, view.starts)
        view.apply(outcome.delta)
    return outcome, view


def resolve_hparams(
    model: str,
    editor: str,
    preset: str | None,
    changes: Mapping[str, Any],
    n_layers: int,
    folder: Path | None = None,
    chat: bool = False,
    shape: tuple[int, int] | None = None,
) -> EditorHParams:
    """Hyper-parameters from a preset (default: this model's first) and changes to it.

    ``folder``: the user's own presets.  ``chat``: the model has a chat template.  ``shape``: as in
    `own_presets`.

    Raises:
        InvalidHParams: unknown editor or preset, a preset of another editor, wrong values.
    """
    presets = own_presets(model, editor, preset, folder, shape)
    return preset_hparams(editor, presets, preset, changes, n_layers, chat=chat)[1]


def resolve(
    base: LoadedModel,
    editor: str,
    presets: Mapping[str, Mapping[str, Any]],
    preset: str | None,
    hparams: Mapping[str, Any] | Literal["auto"],
    probes: Path | None = None,
    monitor: Monitor = NOTHING,
) -> Chosen:
    """Hyper-parameters: a preset's with changes over them, else by a kept or a new probe.

    ``presets``: the editor's for this model by name, the default first.

    Raises:
        InvalidHParams: unknown editor or preset, wrong values, or nothing to choose them by.
        Whatever ``monitor.check`` raises.
    """
    if isinstance(hparams, str) and hparams != AUTO:
        message = f'must be a mapping, or "auto", not {hparams!r}'
        raise InvalidHParams([FieldProblem("/hparams", "no_hparams", message)])
    automatic, changes = asked_for(editor, preset, hparams)
    if automatic or needs_choice(editor, presets, preset, changes):
        return choose(base, editor, folder=probes, changes=changes, monitor=monitor)[0]
    name, checked = preset_hparams(
        editor, presets, preset, changes, base.n_layers, has_template(base)
    )
    return Chosen(checked, "given" if name is None else "preset")


def prepare_facts(
    base: LoadedModel,
    facts: Sequence[Fact | Mapping[str, Any]],
    contexts: Contexts = "plain",
) -> list[Fact]:
    """Facts parsed, checked against the tokenizer as they are asked, and without repetitions.

    A `Fact` is parsed as a mapping is, for it may be made by hand.

    Raises:
        InvalidFacts: with a pointer per wrong field.
    """
    if not facts:
        raise JeepError("there are no facts to edit")
    parsed = parse_chat_facts([_record(fact) for fact in facts], relations(), base.chat)
    check_facts(base.tokenizer, parsed, base.max_positions)
    if contexts != "plain":
        check_facts(base.tokenizer, _in_chats(base, parsed), base.max_positions)
    kept, _ = deduplicate(parsed)
    return [parsed[i] for i in kept]


def _record(fact: Fact | Mapping[str, Any]) -> Mapping[str, Any]:
    """A fact as it is parsed: made of messages again if it was."""
    if not isinstance(fact, Fact):
        return fact
    if not fact.messages:
        return vars(fact)
    said = [{"role": role, "content": content} for role, content in fact.messages]
    return {**vars(fact), "prompt": None, "messages": said}


def relations() -> dict[str, str]:
    """The bundled template table: relation name to its first phrasing."""
    return {relation.name: relation.phrasings[0] for relation in RELATIONS}


def tokenize(
    base: LoadedModel,
    facts: Sequence[Fact],
    prefixes: Sequence[str],
    contexts: Contexts = "plain",
) -> list[FactTokens]:
    """The rows of every fact as it is asked in ``contexts``.

    Raises:
        InvalidFacts: a fact has no form in a chat and cannot be given one.
    """
    if contexts == "both" and all(fact.messages for fact in facts):
        contexts = "chat"
    if contexts != "plain":
        facts = _in_chats(base, facts)
    return [FactTokens(*context_rows(base.tokenizer, fact, prefixes, contexts)) for fact in facts]


def _in_chats(base: LoadedModel, facts: Sequence[Fact]) -> list[Fact]:
    """Facts with the form in which they are asked in a chat."""
    return [in_chat(fact, base.chat, f"/facts/{i}") for i, fact in enumerate(facts)]
