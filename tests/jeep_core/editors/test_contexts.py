"""Facts edited for the plain prompt, for a chat, or for both, with one vector per fact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.library import tiny
from support.library.closed_form import FACTS, HIGH, LOW, PREFIXES
from torch.nn import functional as F

from jeep_core.editing import edit, edit_checked, prepare_facts, resolve_hparams, tokenize
from jeep_core.editors import create, hparams_class
from jeep_core.editors.base import EditContext, EditorOutcome
from jeep_core.errors import InvalidFacts, InvalidHParams
from jeep_core.evaluation.outcomes import judged
from jeep_core.evaluation.trials import Trials
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.spec.hparams import Contexts, validate_hparams
from jeep_core.spec.matrices import GradientOf
from jeep_core.spec.positions import PREFIX_TOKENS, PromptTokens
from jeep_core.text.encoding import encode
from jeep_core.values.cache import fact_key
from jeep_core.values.keys import Position, keys_and_states
from jeep_core.values.objective import FactTokens
from jeep_core.values.reader import RegionReader

LINEAR = {**LOW, "layers": [0, 1, 2]}
SETTINGS: dict[str, dict[str, Any]] = {
    "jeep": {"low": LOW, "high": HIGH, "n_steps": 12},
    "memit": {"low": LINEAR, "n_steps": 12},
    "pmet": {"low": LINEAR, "n_steps": 12},
    "alphaedit": {"low": {**LINEAR, "null_space": 1.0}, "n_steps": 12},
    "rome": {"layer": 1, "n_steps": 12, "n_prefixes": 3},
    "ft-wd": {"layer": 1, "n_steps": 12, "learning_rate": 0.01},
    "ultraedit": {"layers": [1, 2], "step_size": 0.05},
    "locft": {"layers": [1], "n_passes": 12, "learning_rate": 0.01},
    "crispedit": {"layers": [1], "n_passes": 12, "learning_rate": 0.01, "energy": 0.5},
}
WHOLE = ("jeep", "memit", "pmet")
"""Editors that write whole regions at the facts' own keys."""


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return tiny.chat_model("llama")


@pytest.fixture(scope="module")
def moments(base: LoadedModel) -> Moments:
    made = Moments(base, tiny.TEXTS)
    made.ensure([0, 1, 2, GradientOf(1)])
    return made


def hparams(editor: str, contexts: Contexts) -> Any:
    return validate_hparams(hparams_class(editor), {**SETTINGS[editor], "contexts": contexts}, 4)


def run(
    base: LoadedModel, moments: Moments, editor: str, contexts: Contexts
) -> tuple[EditContext, EditorOutcome]:
    facts = tokenize(base, FACTS, PREFIXES, contexts)
    context = EditContext(ModelView(base), facts, moments)
    return context, create(editor).run(context, hparams(editor, contexts))


def nll(view: ModelView, row: PromptTokens) -> float:
    """Mean negative log-likelihood of a row's answer, by the model's own forward pass."""
    logits = view.model(input_ids=torch.tensor([row.ids])).logits[0, row.prediction : -1]
    return float(F.cross_entropy(logits.float(), torch.tensor(row.ids[row.prediction + 1 :])))


@pytest.mark.parametrize("editor", [name for name in SETTINGS if name != "pmet"])
@pytest.mark.parametrize("contexts", ["chat", "both"])
def test_answers_become_more_probable_in_the_contexts_that_are_edited(
    base: LoadedModel, moments: Moments, editor: str, contexts: Contexts
) -> None:
    """PMET leaves what it adds at the attention unwritten, on a random model the better part."""
    context, _ = run(base, moments, editor, contexts)

    def losses(view: ModelView) -> tuple[float, float]:
        facts = tokenize(base, FACTS, PREFIXES, "both")
        plain = sum(nll(view, fact.rows[0]) for fact in facts)
        return sum(nll(view, fact.chat[0]) for fact in facts), plain

    after, before = losses(context.view), losses(ModelView(base))
    assert after[0] < before[0] - 0.1
    assert contexts == "chat" or after[1] < before[1] - 0.1


@pytest.mark.parametrize("editor", SETTINGS)
def test_plain_edits_of_a_chat_model_are_those_of_a_model_without_a_template(
    base: LoadedModel, moments: Moments, editor: str
) -> None:
    _, found = run(base, moments, editor, "plain")
    _, same = run(replace(base, chat=None), moments, editor, "plain")
    for name, update in same.delta.updates.items():
        assert torch.equal(found.delta.updates[name].matrix(), update.matrix())


def test_both_contexts_count_the_same_in_the_loss(base: LoadedModel, moments: Moments) -> None:
    context, outcome = run(base, moments, "memit", "both")
    view = ModelView(base)
    assert outcome.values is not None
    index, losses = outcome.values.trace[0]
    for i, loss in zip(index.tolist(), losses.tolist(), strict=True):
        plain, chat = (
            [nll(view, row) for row in rows]
            for rows in (context.facts[i].rows, context.facts[i].chat)
        )
        expected = (sum(plain) / len(plain) + sum(chat) / len(chat)) / 2
        assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("editor", WHOLE)
def test_each_context_is_written_at_its_own_keys_with_the_same_vector(
    base: LoadedModel, moments: Moments, editor: str
) -> None:
    context, outcome = run(base, moments, editor, "both")
    values, view = outcome.values, ModelView(base)
    assert values is not None
    assert values.chat_low is not None
    sites: list[tuple[str, Position, int, Any, Any]] = [
        ("low", "subject_last", hparams(editor, "both").low.last, values.low, values.chat_low)
    ]
    for region, position, last, *targets in sites:
        for rows, target in zip(
            ([f.rows for f in context.facts], [f.chat for f in context.facts]), targets, strict=True
        ):
            states = RegionReader(
                view, rows, position, last, at_projection=editor == "pmet"
            ).states()
            torch.testing.assert_close(target, states + values.delta_low, rtol=1e-4, atol=1e-4)
        first = hparams(editor, "both").low.layers[0]
        keys = outcome.keys[region, first]
        own = [
            keys_and_states(view, rows, position, first, last)[0]
            for rows in ([f.rows for f in context.facts], [f.chat for f in context.facts])
        ]
        torch.testing.assert_close(keys, torch.cat(own))


def test_high_region_has_keys_where_the_assistant_s_answer_begins(
    base: LoadedModel, moments: Moments
) -> None:
    _, outcome = run(base, moments, "jeep", "both")
    values = outcome.values
    assert values is not None
    assert values.chat_high is not None
    assert values.delta_high is not None
    assert values.chat_high.shape == (3, 32)
    assert outcome.keys["high", 2].shape == (6, 96)
    # the plain and the chat's states differ, the vector that is added to them is the same
    assert not torch.allclose(values.high, values.chat_high)  # type: ignore[arg-type]
    residual = next(one for one in outcome.layers if one.region == "high")
    assert residual.residual_after is not None
    assert residual.residual_before is not None
    assert residual.residual_after < residual.residual_before


def test_high_vector_alone_leaves_the_same_gap_in_both_contexts(
    base: LoadedModel, moments: Moments
) -> None:
    values = run_only_high(base, moments)
    view = ModelView(base)
    facts = tokenize(base, FACTS, PREFIXES, "both")
    for rows, target in (
        ([fact.rows for fact in facts], values.high),
        ([fact.chat for fact in facts], values.chat_high),
    ):
        states = RegionReader(view, rows, "prediction", 2).states()
        torch.testing.assert_close(target, states + values.delta_high, rtol=1e-4, atol=1e-4)


def run_only_high(base: LoadedModel, moments: Moments) -> Any:
    changed = {**SETTINGS["jeep"], "contexts": "both", "optimise": "high"}
    context = EditContext(ModelView(base), tokenize(base, FACTS, PREFIXES, "both"), moments)
    outcome = create("jeep").run(context, validate_hparams(hparams_class("jeep"), changed, 4))
    return outcome.values


def test_facts_that_leave_a_batch_early_keep_both_targets(
    base: LoadedModel, moments: Moments
) -> None:
    """One after the other gives what all together give."""
    facts = tokenize(base, FACTS, PREFIXES, "both")
    whole = EditContext(ModelView(base), facts, moments)
    apart = replace(whole, view=ModelView(base), batch_facts=1)
    editor: Any = create("jeep")
    objective = editor.objective(hparams("jeep", "both"))
    together, single = whole.optimised(objective), apart.optimised(objective)
    for name in ("low", "high", "chat_low", "chat_high"):
        a, b = getattr(together, name), getattr(single, name)
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    cut = together.select([2])
    assert cut.chat_low is not None
    assert together.chat_low is not None
    assert torch.equal(cut.chat_low[0], together.chat_low[2])


def test_facts_of_messages_and_of_prompts_are_edited_together(
    base: LoadedModel, moments: Moments
) -> None:
    said = [{"role": "user", "content": "Where is {}?"}]
    facts = prepare_facts(
        base, [FACTS[0], {"subject": "Rome", "messages": said, "target_new": "old"}]
    )
    result = edit_checked(
        ModelView(base), facts, "memit", hparams("memit", "both"), prefixes=PREFIXES,
        moments=moments,
    )  # fmt: skip
    outcomes = judged(base, result)
    assert [one.after.p_new > one.before.p_new for one in outcomes] == [True, True]
    assert all(one.chat_after is not None for one in outcomes)
    again = prepare_facts(base, facts)
    assert [fact.text for fact in again] == [fact.text for fact in facts]
    assert again[1].messages == (("user", "Where is {}?"),)


def test_fact_of_messages_alone_is_asked_in_its_chat(base: LoadedModel, moments: Moments) -> None:
    said = [{"role": "user", "content": "Where is {}?"}]
    fact = {"subject": "Rome", "messages": said, "target_new": "old"}
    result = edit(
        base, [fact], "memit", hparams=SETTINGS["memit"], prefixes=PREFIXES, moments=moments
    )
    assert result.facts[0].text == "<s>[user] Where is Rome?\n[assistant]\n"
    [outcome] = judged(base, result)
    assert outcome.after.p_new > outcome.before.p_new
    assert outcome.chat_after is None
    assert result.keys["low", 0].shape == (1, 96)


def test_model_of_chats_is_edited_for_both_unless_it_is_said(base: LoadedModel) -> None:
    def chosen(chat: bool, editor: str = "memit", **changes: Any) -> Any:
        values = {**SETTINGS[editor], **changes}
        return resolve_hparams("tiny", editor, None, values, 4, chat=chat)

    assert chosen(True).contexts == "both"
    assert chosen(True, "ft-wd").contexts == "both"
    assert chosen(True, contexts="plain").contexts == "plain"
    assert chosen(False).contexts == "plain"
    for contexts in ("chat", "both"):
        with pytest.raises(InvalidHParams, match="/hparams/contexts: the model has no chat"):
            chosen(False, contexts=contexts)
    # a version that was written before there was a choice is applied again as it was
    assert validate_hparams(hparams_class("memit"), SETTINGS["memit"], 4).contexts == "plain"  # type: ignore[attr-defined]


def test_trials_edit_for_the_contexts_of_each_trial(base: LoadedModel, moments: Moments) -> None:
    trials = Trials(base, FACTS, moments, PREFIXES)
    views = {c: trials.edit("memit", hparams("memit", c), [0, 1])[0] for c in ("plain", "both")}  # type: ignore[arg-type]
    row = tokenize(base, FACTS, PREFIXES, "both")[0].chat[0]
    assert nll(views["both"], row) < nll(views["plain"], row)


def test_kept_values_of_plain_facts_are_found_again() -> None:
    """The key of a fact without a second context is what it was before there was one."""
    row = PromptTokens((1, 2), 0, 0, 1)
    assert fact_key(FactTokens([row], row)) == "22bc905383bb9264c4a4229e32e507bd"
    assert fact_key(FactTokens([row], row, [row])) != fact_key(FactTokens([row], row))


def test_a_fact_that_is_too_long_as_a_chat_is_refused_where_it_is_asked_in_one(
    base: LoadedModel,
) -> None:
    limit = base.max_positions - PREFIX_TOKENS
    prompt = "{}" + " is" * 2 * limit
    while len(encode(base.tokenizer, prompt.format("Paris") + " Rome").ids) > limit:
        prompt = prompt[: -len(" is")]
    fact = {"subject": "Paris", "prompt": prompt, "target_new": "Rome"}
    assert len(prepare_facts(base, [fact])) == 1
    for contexts in ("chat", "both"):
        with pytest.raises(InvalidFacts) as raised:
            prepare_facts(base, [fact], contexts)
        [problem] = raised.value.problems
        assert (problem.pointer, problem.code) == ("/facts/0/prompt", "too_long")
        assert "as a chat" in problem.message
