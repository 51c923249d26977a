"""The editor of an edit that leaves it to choose: by what can be used and what head holds."""

from __future__ import annotations

from collections.abc import Callable

from jeep_core.editors import AUTO_EDITOR
from jeep_core.errors import InvalidHParams, MissingMoments
from jeep_core.probe.defaults.editor_choice import Situation, check_alone, choose_editor
from jeep_core.text.chat import has_template
from service.api.http.problems import ApiProblem
from service.api.model import PublishedModel
from service.api.submission.edits import Submission
from service.api.submission.networks import check_network
from service.api.submission.validation import hparams_of
from service.contracts.schemas import AUTO
from service.contracts.schemas.edits import HParamsOrAuto
from service.store import Store
from service.store.base.files import BaseFiles
from service.store.base.moments import check_moments
from service.store.index import listing


def choose_for(submission: Submission, store: Store, model: PublishedModel) -> None:
    """Choose the editor of a submission that says ``auto``, for its facts on top of head.

    Raises:
        InvalidHParams: it names what belongs to one editor.
        JeepError: a manifest of head's line, or the record of a network, cannot be read.
    """
    options = submission.options
    if options.editor != AUTO_EDITOR:
        return
    check_alone(options.preset, options.hparams)
    info, presets = model.info, model.info.presets
    automatic = AUTO in (options.preset, options.hparams)
    situation = Situation(
        model=info.model,
        shape=(info.n_layers, info.hidden_size),
        mlp_size=info.mlp_size,
        chat=has_template(model),
        n_facts=len(submission.facts),
        n_earlier=_live_facts(store),
        automatic=automatic,
        presets={
            editor: info.preset_values[f"{editor}/{names[0]}"]
            for editor, names in presets.items()
            if names
        },
        hindrance=_hindrance_of(store.base, model, AUTO if automatic else {}),
    )
    submission.choice = choose_editor(situation)


def _live_facts(store: Store) -> int:
    """Facts that head holds: one that was edited twice counts once."""
    return listing.live_count(store, store.head.read().version)


def _hindrance_of(
    base: BaseFiles, model: PublishedModel, given: HParamsOrAuto
) -> Callable[[str], str | None]:
    """A function from an editor to the reason why it cannot edit the served model now."""

    def hindrance(editor: str) -> str | None:
        try:
            _, hparams, _ = hparams_of(editor, None, given, model)
            check_moments(base, model.info, editor, hparams)
            check_network(base, model.info, editor, hparams)
        except InvalidHParams as error:
            return error.problems[0].message
        except (MissingMoments, ApiProblem) as error:
            return str(error)
        return None

    return hindrance
