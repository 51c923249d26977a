"""Views: edited versions beside a base that never changes by a bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from support.library import tiny
from torch import nn

from jeep_core.editing import edit
from jeep_core.models.delta import Update, WeightDelta, materialise
from jeep_core.models.loading import LoadedModel, tensor_bytes, wrap
from jeep_core.models.views import (
    ModelView,
    block_output,
    hooked,
    lower_part,
    share,
    upper_part,
    with_hidden,
)
from jeep_core.moments.cache import Moments
from jeep_core.spec.facts import Fact

FACTS = [
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("Oslo", "{} lies in", "東京"),
]
HPARAMS = {
    "low": {"layers": [0, 1], "clamp": 2.0, "moment_weight": 5},
    "high": {"layers": [2], "clamp": 1.0, "moment_weight": 5},
    "n_steps": 4,
}


def ids(base: LoadedModel) -> torch.Tensor:
    return torch.tensor([base.tokenizer.encode("The city of Paris lies in").ids])


def logits(model: nn.Module, base: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids(base)).logits
    return found


def state(base: LoadedModel) -> dict[str, bytes]:
    """Every byte of a model's parameters and buffers."""
    return {name: tensor_bytes(t) for name, t in base.model.state_dict(keep_vars=True).items()}


def some_update(base: LoadedModel, layer: int, seed: int = 0) -> Update:
    generator = torch.Generator().manual_seed(seed)
    weight = tiny.mlp_out(base.model, layer).weight
    out_size, in_size = sorted(weight.shape)  # d < d_ff
    return Update.of(
        torch.randn(out_size, 2, generator=generator), torch.randn(in_size, 2, generator=generator)
    )


@pytest.fixture(autouse=True)
def _base_is_untouched(base: LoadedModel) -> Iterator[None]:
    """After every test here: same tensors at the same places, same bytes, no hooks."""
    before, answers = state(base), logits(base.model, base)
    places = {name: p.data_ptr() for name, p in base.model.named_parameters()}
    modules = {name: id(module) for name, module in base.model.named_modules()}
    yield
    assert state(base) == before
    assert {name: p.data_ptr() for name, p in base.model.named_parameters()} == places
    assert {name: id(module) for name, module in base.model.named_modules()} == modules
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in base.model.modules())
    assert all(parameter.grad is None for parameter in base.model.parameters())
    assert torch.equal(logits(base.model, base), answers)
    assert wrap(base.name, base.model, base.tokenizer).weights_sha256 == base.weights_sha256


def test_a_view_answers_like_its_base_and_costs_no_weights(base: LoadedModel) -> None:
    view = ModelView(base)
    assert torch.equal(logits(view.model, base), logits(base.model, base))
    assert view.weights_sha256() == base.weights_sha256
    for name, parameter in base.model.named_parameters():
        assert view.parameter(name) is parameter
    assert view.model is not base.model
    own = {id(module) for module in view.model.modules()}
    assert not own & {id(module) for module in base.model.modules()}


def test_an_update_is_seen_in_its_view_only(base: LoadedModel) -> None:
    view, other = ModelView(base), ModelView(base)
    view.update(base.family.weight_name(1), some_update(base, 1))
    assert not torch.allclose(logits(view.model, base), logits(base.model, base))
    assert torch.equal(logits(other.model, base), logits(base.model, base))
    assert view.weights_sha256() != base.weights_sha256
    assert set(view.replaced) == {base.family.weight_name(1)}


def test_an_update_maps_keys_to_values_in_every_orientation(base: LoadedModel) -> None:
    """What the projection gives for key k grows by Δ k, also where (in, out) is stored."""
    view, update = ModelView(base), some_update(base, 1)
    view.update(base.family.weight_name(1), update)
    key = torch.randn(1, 1, max(tiny.mlp_out(base.model, 1).weight.shape))
    with torch.no_grad():
        before = tiny.mlp_out(base.model, 1)(key)[0, 0]
        after = tiny.mlp_out(view.model, 1)(key)[0, 0]
    expected = update.matrix() @ key[0, 0].double()
    assert torch.allclose((after - before).double(), expected, rtol=1e-4, atol=1e-4)


def test_gpt2_stores_its_projection_transposed(gpt2: LoadedModel, gptj: LoadedModel) -> None:
    assert tiny.mlp_out(gpt2.model, 0).weight.shape == (128, 32)
    assert tiny.mlp_out(gptj.model, 0).weight.shape == (32, 128)
    view, update = ModelView(gpt2), some_update(gpt2, 0)
    name = gpt2.family.weight_name(0)
    view.update(name, update)
    base = gpt2.model.get_parameter(name)
    assert torch.equal(view.parameter(name), (base.double() + update.matrix().T).float())


def test_updates_add_up_and_are_rounded_once() -> None:
    base = tiny.random_model("gptj", torch.bfloat16)
    name, updates = base.family.weight_name(1), [some_update(base, 1, seed) for seed in range(5)]
    view = ModelView(base)
    for update in updates:
        view.update(name, update)
    expected = materialise(base.model.get_parameter(name), updates, transposed=False)
    assert torch.equal(view.parameter(name), expected)
    assert view.history[name] == updates
    rebuilt = ModelView(base)
    for update in updates:
        rebuilt.apply(WeightDelta({name: update}))
    assert rebuilt.weights_sha256() == view.weights_sha256()


def test_a_fork_changes_neither_its_origin_nor_other_forks(base: LoadedModel) -> None:
    name = base.family.weight_name(1)
    view = ModelView(base)
    view.update(name, some_update(base, 1))
    before = view.weights_sha256()
    fork = view.fork()
    assert fork.weights_sha256() == before
    assert torch.equal(logits(fork.model, base), logits(view.model, base))
    fork.update(name, some_update(base, 1, seed=1))
    fork.update(base.family.weight_name(2), some_update(base, 2))
    assert view.weights_sha256() == before
    assert (len(view.history[name]), len(fork.history[name])) == (1, 2)
    view.update(name, some_update(base, 1, seed=1))
    assert torch.equal(view.parameter(name), fork.parameter(name))


def test_a_view_of_tensors_without_their_updates_takes_no_further_one(base: LoadedModel) -> None:
    """It would have to start from the base again and lose what the tensor holds."""
    name = base.family.weight_name(1)
    edited = ModelView(base)
    edited.update(name, some_update(base, 1))
    stored = ModelView(base, edited.replaced)
    with pytest.raises(ValueError, match="without the updates that made it"):
        stored.update(name, some_update(base, 1, seed=1))
    assert torch.equal(stored.parameter(name), edited.parameter(name))
    ModelView(base, edited.replaced, edited.history).update(name, some_update(base, 1, seed=1))


def test_a_view_can_be_made_from_stored_tensors(base: LoadedModel) -> None:
    view = ModelView(base)
    view.update(base.family.weight_name(1), some_update(base, 1))
    stored = {name: tensor.clone() for name, tensor in view.replaced.items()}
    again = ModelView(base, stored)
    assert again.weights_sha256() == view.weights_sha256()
    assert torch.equal(logits(again.model, base), logits(view.model, base))


@pytest.mark.parametrize("wrong", ["shape", "dtype"])
def test_a_tensor_that_does_not_fit_is_refused(base: LoadedModel, wrong: str) -> None:
    view, name = ModelView(base), base.family.weight_name(1)
    tensor = view.parameter(name)
    bad = tensor.T.contiguous() if wrong == "shape" else tensor.to(torch.bfloat16)
    with pytest.raises(ValueError, match=name):
        view.replace(name, bad)
    assert view.weights_sha256() == base.weights_sha256


def test_hooks_on_a_view_stay_on_it_and_are_removed(base: LoadedModel) -> None:
    view, calls = ModelView(base), []
    handle = tiny.blocks(view.model)[1].register_forward_hook(lambda *_: calls.append(1))

    def interrupted() -> None:
        with hooked(handle):
            logits(base.model, base)
            assert calls == []
            logits(view.model, base)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert calls == [1]
    logits(view.model, base)
    assert calls == [1]


def test_the_lower_part_ends_after_its_block(base: LoadedModel) -> None:
    view, states = ModelView(base), []
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(tiny.blocks(view.model))
    ]
    take = tiny.blocks(view.model)[1].register_forward_hook(
        lambda m, a, output: states.append(block_output(output))
    )
    with hooked(take, *handles), torch.no_grad():
        lower_part(view, 1)(input_ids=ids(base), use_cache=False)
        assert ran == [0, 1]
        view.model(input_ids=ids(base))
    assert torch.equal(states[0], states[1])


def test_the_upper_part_goes_on_from_a_blocks_output(base: LoadedModel) -> None:
    view, states = ModelView(base), []
    take = tiny.blocks(view.model)[1].register_forward_hook(
        lambda m, a, output: states.append(block_output(output))
    )
    with hooked(take):
        expected = logits(view.model, base)
    with torch.no_grad():
        hidden = upper_part(view, 2)(inputs_embeds=states[0]).last_hidden_state
        found = view.model.get_output_embeddings()(hidden)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_parts_leave_their_view_whole(base: LoadedModel) -> None:
    view = ModelView(base)
    names = [name for name, _ in view.model.named_modules()]
    lower_part(view, 0)
    upper_part(view, 3)
    assert [name for name, _ in view.model.named_modules()] == names
    assert torch.equal(logits(view.model, base), logits(base.model, base))


def test_a_blocks_output_may_be_wrapped() -> None:
    hidden, other = torch.zeros(1), torch.ones(1)
    assert block_output(hidden) is hidden
    assert block_output((hidden, other)) is hidden
    assert with_hidden(hidden, other) is other
    assert with_hidden((hidden, 5), other) == (other, 5)


@pytest.mark.parametrize("editor", ["jeep", "memit"])
def test_an_edit_leaves_base_and_view_alone(base: LoadedModel, editor: str) -> None:
    """The edit's own view is written; neither the base nor a view that is given ever is."""
    given = ModelView(base)
    given.update(base.family.weight_name(0), some_update(base, 0))
    before = given.weights_sha256()
    hparams = copy.deepcopy(HPARAMS)
    if editor == "memit":
        del hparams["high"]
    moments = Moments(base, tiny.TEXTS * 3)
    arguments = {"prefixes": ["", "The"], "moments": moments, "hparams": hparams}
    results = [edit(model, FACTS, editor, **arguments) for model in (base, given)]
    assert given.weights_sha256() == before
    assert all(not module._forward_hooks for module in given.model.modules())
    layers = [0, 1, 2] if editor == "jeep" else [0, 1]
    for result in results:
        assert list(result.delta.updates) == [base.family.weight_name(i) for i in layers]
    applied = ModelView(base)
    applied.apply(results[0].delta)
    assert applied.weights_sha256() != base.weights_sha256


def test_a_copy_has_a_configuration_and_places_of_its_own(base: LoadedModel) -> None:
    calls: list[str] = []
    block = base.family.layers_of(base.model)[0]
    with hooked(block.register_forward_hook(lambda *_: calls.append("ran"))):
        twin = share(base.model)
    twin(input_ids=torch.tensor([[5, 6]]))
    assert calls == ["ran"]  # hooks of the original act in it …
    own = base.model.config._attn_implementation
    twin.config._attn_implementation = "other"
    twin.anything = 1
    assert base.model.config._attn_implementation == own
    assert not hasattr(base.model, "anything")
    backbone = base.family.backbone_of(twin)
    assert backbone.config is twin.config
    part = base.family.layers_of(twin)[0]
    more = part.register_forward_hook(lambda *_: calls.append("more"), with_kwargs=True)
    base.model(input_ids=torch.tensor([[5, 6]]))
    assert calls == ["ran"]  # … and its own are not those of the original
    assert part._forward_hooks_with_kwargs
    assert not block._forward_hooks_with_kwargs
    part.register_buffer("passing", torch.zeros(1), persistent=False)
    assert not block._non_persistent_buffers_set
    more.remove()
    parameters = zip(base.model.parameters(), twin.parameters(), strict=True)
    assert all(mine is theirs for mine, theirs in parameters)


def test_a_copy_shares_within_itself_what_the_original_shares() -> None:
    part = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity())
    known: dict[str, int] = {}
    for one in part:
        one.known = known
    twin = share(part)
    assert twin[0].known is twin[1].known
    assert twin[0].known is not known
