"""The view that an edit returns has the bytes that its delta gives, and is made only once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.library import tiny

from jeep_core import editing as edit_module
from jeep_core.editing import edit, edit_checked, run_editor, tokenize
from jeep_core.editors.base import EditContext, EditorOutcome
from jeep_core.editors.ft_wd.hparams import FtWdHParams
from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.editors.rome.hparams import RomeHParams
from jeep_core.evaluation.trials import Trials
from jeep_core.models import views as views_module
from jeep_core.models.delta import Update, materialise
from jeep_core.models.loading import LoadedModel, tensor_bytes
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.spec.facts import Fact

FACTS = [
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("Oslo", "{} lies in", "Japan"),
]
MANY = [Fact(f"Paris {i}", "{} lies in", "Peru") for i in range(30)]
"""So many that ROME's update is kept as one matrix and no longer as factors."""
LOW = {"layers": [0, 1], "clamp": 2.0, "moment_weight": 5}
HIGH = {"layers": [2], "clamp": 1.0, "moment_weight": 5}
FEW_STEPS = {"n_steps": 2, "learning_rate": 0.1, "kl_weight": 0.06}
HPARAMS: dict[str, dict[str, Any]] = {
    "jeep": {"low": LOW, "high": HIGH, **FEW_STEPS},
    "memit": {"low": LOW, **FEW_STEPS},
    "pmet": {"low": LOW, **FEW_STEPS},
    "rome": {"layer": 1, **FEW_STEPS},
    "alphaedit": {"low": {**LOW, "null_space": 10.0}, **FEW_STEPS},
    "ft-wd": {"layer": 1, "n_steps": 2, "learning_rate": 1e-3},
    "ultraedit": {"layers": [1, 2], "step_size": 0.01, "n_prefixes": 2},
    "locft": {"layers": [1, 2], "n_passes": 2, "learning_rate": 1e-3},
    "crispedit": {"layers": [1, 2], "n_passes": 2, "learning_rate": 1e-3},
}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of every edited matrix that is made, in their order."""
    shapes: list[tuple[int, ...]] = []

    def counted(base: torch.Tensor, *args: Any) -> torch.Tensor:
        shapes.append(tuple(base.shape))
        return materialise(base, *args)

    monkeypatch.setattr(views_module, "materialise", counted)
    return shapes


def bytes_of(view: ModelView) -> dict[str, bytes]:
    return {name: tensor_bytes(tensor) for name, tensor in view.replaced.items()}


def edited(base: LoadedModel, editor: str, on: ModelView | None = None, **more: Any) -> Any:
    given = {"facts": FACTS, "prefixes": ["", "The"], "hparams": HPARAMS[editor], **more}
    facts = given.pop("facts")
    return edit(on or base, facts, editor, moments=Moments(base, tiny.TEXTS), **given)


@pytest.mark.parametrize("editor", HPARAMS)
def test_the_view_has_the_bytes_of_the_delta_in_a_chain_of_edits(
    base: LoadedModel, editor: str
) -> None:
    first = edited(base, editor)
    again = ModelView(base)
    again.apply(first.delta)
    assert bytes_of(first.view) == bytes_of(again)
    second = edited(base, editor, on=first.view, facts=FACTS[:1])
    assert bytes_of(first.view) == bytes_of(again), "the version edited stays as it is"
    again.apply(second.delta)
    assert bytes_of(second.view) == bytes_of(again)
    assert second.view.weights_sha256() == again.weights_sha256()
    assert second.view.history.keys() == again.history.keys()
    assert not any(module._forward_hooks for module in second.view.model.modules())
    assert not any(module._forward_pre_hooks for module in second.view.model.modules())


@pytest.mark.parametrize("count", [2, 30])
def test_an_update_that_was_written_in_parts_is_rounded_as_a_whole(
    gptj: LoadedModel, count: int
) -> None:
    """ROME writes fact by fact: its own view may differ from its delta by rounding."""
    result = edited(gptj, "rome", facts=MANY[:count], prefixes=[""])
    [update] = result.delta.updates.values()
    assert (update.dense is not None) is (count == 30)
    again = ModelView(gptj)
    again.apply(result.delta)
    assert bytes_of(result.view) == bytes_of(again)
    [history] = result.view.history.values()
    assert history == [update]


@pytest.mark.parametrize(("editor", "matrices"), [("jeep", 3), ("memit", 2), ("ft-wd", 1)])
def test_no_matrix_is_made_twice(
    gptj: LoadedModel, made: list[tuple[int, ...]], editor: str, matrices: int
) -> None:
    edited(gptj, editor)
    assert len(made) == matrices


class Careless:
    """An editor of another distribution whose view is not what its delta says."""

    def run(self, context: EditContext, hparams: Any) -> EditorOutcome:
        view = context.view
        one, other = (view.base.family.weight_name(layer) for layer in (1, 2))
        update = Update(dense=torch.ones_like(view.parameter(one)))
        view.update(one, update)
        view.replaced[one].mul_(3)  # after the fact, and in place
        view.replace(other, torch.zeros_like(view.parameter(other)))
        view.model.register_forward_hook(lambda *_: None)
        outcome = EditorOutcome()
        outcome.delta.updates[one] = update
        return outcome


def test_the_view_of_a_foreign_editor_is_not_relied_on(
    gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit_module, "create", lambda name: Careless())
    start = ModelView(gptj)
    name = gptj.family.weight_name(1)
    start.update(name, Update(dense=torch.ones_like(start.parameter(name))))
    context = EditContext(start.fork(), tokenize(gptj, FACTS, [""]))
    outcome, view = run_editor("careless", context, FtWdHParams(layer=1))
    again = start.fork()
    again.apply(outcome.delta)
    assert bytes_of(view) == bytes_of(again)
    assert not view.model._forward_hooks


@pytest.fixture
def no_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("parse_chat_facts", "check_facts", "deduplicate", "preset_hparams", "own_presets"):
        monkeypatch.delattr(edit_module, name)


@pytest.mark.usefixtures("no_parsing")
def test_checked_values_are_not_checked_again(gptj: LoadedModel) -> None:
    hparams = MemitHParams.model_validate(HPARAMS["memit"])
    moments = Moments(gptj, tiny.TEXTS)
    result = edit_checked(
        ModelView(gptj), FACTS, "memit", hparams, prefixes=["", "The"], moments=moments
    )
    assert result.hparams is hparams
    assert all(one is other for one, other in zip(result.facts, FACTS, strict=True))


def test_checked_values_give_the_bytes_of_the_front_door(gptj: LoadedModel) -> None:
    expected = edited(gptj, "memit")
    hparams = MemitHParams.model_validate(HPARAMS["memit"])
    moments = Moments(gptj, tiny.TEXTS)
    found = edit_checked(
        ModelView(gptj), FACTS, "memit", hparams, prefixes=["", "The"], moments=moments
    )
    assert bytes_of(found.view) == bytes_of(expected.view)


def test_a_trial_measures_the_weights_that_an_edit_would_write(gptj: LoadedModel) -> None:
    hparams = RomeHParams.model_validate(HPARAMS["rome"])
    trials = Trials(gptj, MANY, Moments(gptj, tiny.TEXTS), [""])
    view, outcome = trials.edit("rome", hparams, range(len(MANY)))
    again = ModelView(gptj)
    again.apply(outcome.delta)
    assert bytes_of(view) == bytes_of(again)
