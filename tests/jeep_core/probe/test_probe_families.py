"""Guarantees of the probe for every family, judged by plain runs of one row at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from support.library import tiny

from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView, hooked
from jeep_core.probe.patching import Pair, exchange, restoration
from jeep_core.probe.prompts import Prompt, answers, prepare
from jeep_core.probe.readings import LENSES, Readings, read
from jeep_core.probe.states import POSITIONS
from jeep_core.spec.facts import Fact

FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru", "Norway"),
    Fact("São Paulo", "People who live in {} are at home in", "Norway", "Chad"),
    Fact("The old town", "{} lies in the country of", "Chad", "Peru"),
)
SITES = ("output", "after_attention", "after_mlp")


@pytest.fixture(scope="module", params=tiny.ALL_FAMILIES)
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny.random_model(request.param)


@pytest.fixture(scope="module")
def prompts(model: LoadedModel) -> tuple[Prompt, ...]:
    found = prepare(ModelView(model), FACTS)
    assert not found.dropped
    return found.prompts


@pytest.fixture(scope="module")
def readings(model: LoadedModel, prompts: tuple[Prompt, ...]) -> Readings:
    return read(ModelView(model), prompts)


def silent(module: Any, args: Any, output: Any) -> Any:
    """A branch that adds nothing."""
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)


def plain_states(model: LoadedModel, ids: tuple[int, ...], layer: int, site: str) -> torch.Tensor:
    """(t, d): a block's output, the other branch switched off if it is to be left out."""
    block, seen = tiny.blocks(model.model)[layer], []

    def keep(module: Any, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    attention = next(
        m for n, m in block.named_children() if n in ("attn", "attention", "self_attn")
    )
    with ExitStack() as stack:
        if site == "after_attention":
            stack.enter_context(hooked(block.mlp.register_forward_hook(silent)))
        if site == "after_mlp" and model.name in ("tiny-gptj", "tiny-gpt_neox"):
            stack.enter_context(hooked(attention.register_forward_hook(silent)))
        stack.enter_context(hooked(block.register_forward_hook(keep)))
        with torch.no_grad():
            model.model(input_ids=torch.tensor([ids]))
    return seen[0].reshape(len(ids), -1)


def plain_logits(model: LoadedModel, state: torch.Tensor, lens: str) -> torch.Tensor:
    """Logits of one state (d), from the parts as transformers names them."""
    body = model.model.base_model
    norm = next(m for n, m in body.named_children() if n in ("ln_f", "norm", "final_layer_norm"))
    with torch.no_grad():
        logits: torch.Tensor = model.model.get_output_embeddings()(
            norm(state) if lens == "final_norm" else state
        )
    cap = getattr(model.model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@pytest.mark.parametrize("site", SITES)
def test_probability_and_rank_are_those_of_the_state(
    model: LoadedModel, prompts: tuple[Prompt, ...], readings: Readings, site: str
) -> None:
    for layer in range(4):
        for i, prompt in enumerate(prompts):
            states = plain_states(model, prompt.tokens.ids, layer, site)
            for position in POSITIONS:
                state = states[getattr(prompt.tokens, position)]
                for lens in LENSES:
                    logits = plain_logits(model, state, lens)
                    for answer in ("original", "target"):
                        token = getattr(prompt, answer)
                        place = (lens, answer, position, site)
                        p = float(readings.of("probability", *place)[i, layer])
                        assert p == pytest.approx(float(logits.softmax(0)[token]), rel=1e-3)
                        rank = float(readings.of("rank", *place)[i, layer])
                        near = (logits - logits[token]).abs() < 1e-4 * logits.abs().max()
                        above = int((logits > logits[token]).sum())
                        assert abs(rank - above) <= int(near.sum()) - 1


def test_the_last_block_through_the_norm_is_the_models_own_answer(
    model: LoadedModel, prompts: tuple[Prompt, ...], readings: Readings
) -> None:
    for i, prompt in enumerate(prompts):
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([prompt.tokens.ids])).logits[0, -1]
        last = readings.of("probability", "final_norm", "original", "prediction", "output")[i, -1]
        assert float(last) == pytest.approx(float(logits.softmax(0)[prompt.original]), rel=1e-3)
        assert answers(ModelView(model), [prompt.tokens]) == [int(logits.argmax())]


def plain_patched(
    model: LoadedModel,
    ids: tuple[int, ...],
    layer: int,
    place: int,
    state: torch.Tensor,
    at_embedding: Callable[..., Any] | None = None,
) -> torch.Tensor:
    """Probabilities of the next token with one state put in place of a block's output."""

    def put(module: Any, args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, place] = state
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    with ExitStack() as stack:
        block = tiny.blocks(model.model)[layer]
        stack.enter_context(hooked(block.register_forward_hook(put)))
        if at_embedding is not None:
            embedding = model.model.get_input_embeddings()
            stack.enter_context(hooked(embedding.register_forward_hook(at_embedding)))
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([ids])).logits[0, -1]
    found: torch.Tensor = logits.softmax(0)
    return found


def test_an_exchange_puts_the_donors_state_in_place(
    model: LoadedModel, prompts: tuple[Prompt, ...]
) -> None:
    donors = [*prompts[1:], prompts[0]]
    pairs = [Pair(p, d.tokens, d.target) for p, d in zip(prompts, donors, strict=True)]
    patched = exchange(ModelView(model), pairs)
    assert patched.other is not None
    for i, (prompt, donor) in enumerate(zip(prompts, donors, strict=True)):
        for layer in range(4):
            state = plain_states(model, donor.tokens.ids, layer, "output")
            expected = plain_patched(
                model, prompt.tokens.ids, layer, prompt.tokens.subject_last,
                state[donor.tokens.subject_last],
            )  # fmt: skip
            own, other = expected[prompt.original], expected[donor.target]
            assert float(patched.own[i, layer]) == pytest.approx(float(own), rel=1e-3)
            assert float(patched.other[i, layer]) == pytest.approx(float(other), rel=1e-3)
        assert patched.effect[i, 3] == pytest.approx(0, abs=1e-6)  # no attention is left to read it


def test_a_restoration_puts_the_clean_state_into_a_noisy_run(
    model: LoadedModel, prompts: tuple[Prompt, ...]
) -> None:
    prompt = prompts[2]  # three words, so several of its tokens are noisy
    assert prompt.subject_first < prompt.tokens.subject_last
    patched = restoration(ModelView(model), [prompt], seed=3)
    ids = prompt.tokens.ids
    noise = torch.randn(1, len(ids), 32, generator=torch.Generator().manual_seed(3))
    noise[:, : prompt.subject_first] = 0
    noise[:, prompt.tokens.subject_last + 1 :] = 0
    spread = model.model.get_input_embeddings()(torch.tensor(sorted(set(ids)))).std()

    def add(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output + 3 * spread * noise

    for layer in range(4):
        state = plain_states(model, ids, layer, "output")[prompt.tokens.subject_last]
        place = prompt.tokens.subject_last
        expected = plain_patched(model, ids, layer, place, state, add)[prompt.original]
        assert float(patched.own[0, layer]) == pytest.approx(float(expected), rel=1e-3)
    assert float(patched.own[0, 3]) == pytest.approx(float(patched.own_before[0]), rel=1e-4)
