"""Jobs of a model with a chat template: what is stored, what is measured, what is preserved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.library import tiny
from support.service.edit_runner import (
    HPARAMS,
    MODEL,
    an_edit,
    control,
    edit_on,
    give_moments,
    runner_and_views,
)

from jeep_core.evaluation.outcomes import answers
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from jeep_core.spec.chats import as_asked_in_chat, in_chat, parse_chat_facts
from jeep_core.spec.facts import Fact
from jeep_core.text.chat import ChatTemplate
from service.api.model import ModelCache
from service.contracts.schemas import FactRecord, Manifest
from service.settings import Settings
from service.store import Store
from service.worker.members.publishing import publish

CHAT = ChatTemplate(tiny.CHAT, {"bos_token": ""})
LYON, NICE = Fact("Lyon", "{} lies in", "Peru"), Fact("Nice", "{} lies in", "Peru", "France")


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return replace(load(str(MODEL), device="cpu", dtype="float32"), chat=CHAT)


def job(*facts: Fact, contexts: str = "both", **more: Any) -> Any:
    records = [FactRecord.of(in_chat(fact, CHAT)).model_dump(mode="json") for fact in facts]
    return an_edit(*records, hparams={**HPARAMS, "contexts": contexts}, **more)


def test_edit_for_both_is_judged_in_both_and_can_be_applied_again_without_the_template(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    give_moments(base, store, tmp_path)
    runner, _ = runner_and_views(base, store)
    made, view = edit_on(runner, job(LYON, NICE), "v0")
    assert made.hparams["contexts"] == "both"
    assert made.facts[0].chat is not None
    assert made.facts[0].chat.prompt == "[user] {} lies in\n[assistant]\n"
    result = made.result
    assert result is not None
    chats = [as_asked_in_chat(fact, CHAT) for fact in (LYON, NICE)]
    for ask, facts in (("after", (LYON, NICE)), ("chat_after", chats)):
        said = answers(view, facts)
        shown = [getattr(outcome, ask) for outcome in result.facts]
        assert [one.p_new for one in shown] == pytest.approx([one.p_new for one in said])
    said = answers(ModelView(base), chats)
    found = [outcome.chat_before.p_new for outcome in result.facts if outcome.chat_before]
    assert found == pytest.approx([one.p_new for one in said])
    assert result.chat_efficacy is not None
    later, _ = runner_and_views(replace(base, chat=None), store)
    stored = Manifest.model_validate_json(made.model_dump_json())
    again = later.reapply(job(number=2), stored, [store.versions.read("v0")], "v0", control())
    assert again.weights_sha256 == made.weights_sha256


def test_edit_for_a_chat_alone_is_judged_there(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    give_moments(base, store, tmp_path)
    runner, _ = runner_and_views(base, store)
    made, view = edit_on(runner, job(LYON, contexts="chat"), "v0")
    assert made.result is not None
    [outcome] = made.result.facts
    [said] = answers(view, [as_asked_in_chat(LYON, CHAT)])
    assert outcome.prompt == LYON.prompt
    assert outcome.after.p_new == pytest.approx(said.p_new)
    assert outcome.chat_after is None


def test_keys_of_both_contexts_are_preserved_and_those_of_an_edited_fact_are_not(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    give_moments(base, store, tmp_path)
    runner, views = runner_and_views(base, store)
    made, _ = edit_on(runner, job(LYON, NICE), "v0")
    line = [store.versions.read("v0"), made]
    every = views.live_keys(line, [])["low", 0]
    assert every.shape == (4, base.mlp_size)
    assert torch.equal(views.live_keys(line, [LYON])["low", 0], every[[1, 3]])
    assert torch.equal(views.live_keys(line, [NICE])["low", 0], every[[0, 2]])


def test_fact_of_messages_goes_through_the_store_and_back(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    give_moments(base, store, tmp_path)
    runner, _ = runner_and_views(base, store)
    said = [{"role": "user", "content": "Where is {}?"}]
    record = {"subject": "Lyon", "messages": said, "target_new": "Peru"}
    [fact] = parse_chat_facts([record], {}, CHAT)
    made, view = edit_on(runner, job(fact), "v0")
    stored = Manifest.model_validate_json(made.model_dump_json())
    assert [message.model_dump() for message in stored.facts[0].messages or []] == said
    assert stored.result is not None
    assert stored.result.facts[0].after.p_new == pytest.approx(answers(view, [fact])[0].p_new)
    assert stored.result.chat_efficacy is None


@pytest.mark.parametrize("chat", [CHAT, None])
def test_template_is_published_for_the_api(
    base: LoadedModel, store: Store, chat: ChatTemplate | None
) -> None:
    store.bind_model(base.model_hash)
    cache = ModelCache(store)
    settings = Settings(store=store.root, model=str(MODEL))
    for one in (CHAT, chat):  # what an earlier worker has published is not left behind
        publish(store, replace(base, chat=one), settings)
        assert cache.get().chat == one
