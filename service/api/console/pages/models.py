"""The model and the editors that there are, as forms offer them."""

from __future__ import annotations

from jeep_core.editors import DEFAULT_EDITOR, EDITORS
from jeep_core.editors.plugins import registered
from service.api.http.problems import ApiProblem
from service.api.model import PublishedModel
from service.api.state import ApiState


def model_or_reason(state: ApiState) -> tuple[PublishedModel | None, str]:
    """The model of the store, or None and why there is none."""
    try:
        return state.models.get(), ""
    except ApiProblem as problem:
        return None, problem.detail


def usual_presets(state: ApiState) -> list[str]:
    """The model's presets for the editor of edits that name none, the default one first."""
    model, _ = model_or_reason(state)
    return model.info.presets.get(DEFAULT_EDITOR, []) if model else []


def editor_names() -> list[str]:
    """The names of all editors, none of which is imported; a broken one says so when it is used."""
    return [*EDITORS, *(name for name in registered() if name not in EDITORS)]
