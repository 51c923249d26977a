"""Parts with gradients by hand, against the modules that they stand for."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.library import tiny
from torch import nn
from transformers.activations import NewGELUActivation

from jeep_core.models.fused import rounding
from jeep_core.models.fused.attention import GroupedAttention
from jeep_core.models.fused.bounds import KEPT_BYTES
from jeep_core.models.fused.casts import CastOnce
from jeep_core.models.fused.gates import GatedMlp, may_be_gated
from jeep_core.models.fused.norms import RootMeanSquareNorm, gains_of
from jeep_core.models.fused.placing import activation_of, fuse, is_gelu, norm_of, tanh_gelu
from jeep_core.models.fused.rounding import SAME_INPUT, Rounded, in_bfloat16, joined
from jeep_core.models.fused.same_input import SameInput
from jeep_core.models.fused.twin import Twin
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import LoadedModel
from jeep_core.models.masks import Attention
from jeep_core.models.token_rows import GivenPast, no_past
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor

WITH_NORMS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
WITH_GELU = ("gpt2", "gptj", "gemma", "gemma2", "gemma3_text")
HEAD = "lm_head.weight"
GROUPED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text")


def fused(base: LoadedModel) -> ModelView:
    view = ModelView(base)
    run = in_bfloat16(view)
    run.model.set_attn_implementation("eager")
    fuse(run.model, view.model)
    return run


def kinds(run: ModelView) -> set[str]:
    """The kinds of parts that stand in the places of a model's own."""
    return {
        type(module.__dict__["forward"]).__name__
        for module in run.model.modules()
        if "forward" in module.__dict__
    }


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_what_a_family_is_known_to_have_is_replaced(family: str) -> None:
    expected = {"RootMeanSquareNorm"} if family in WITH_NORMS else set()
    expected |= {"GatedMlp"} if family in WITH_NORMS else set()
    expected |= {"GroupedAttention"} if family in GROUPED else set()
    expected |= {"function"} if family in WITH_GELU else set()
    assert kinds(fused(tiny.random_model(family))) == expected


def test_the_gelu_of_several_operations_has_the_numbers_and_gradients_of_one() -> None:
    module = NewGELUActivation()
    assert is_gelu(module)
    assert not any(
        map(is_gelu, (nn.GELU("tanh"), nn.GELU(), nn.SiLU(), nn.Dropout(), nn.Identity()))
    )
    x = torch.linspace(-6, 6, 50).requires_grad_()
    for mine, theirs in zip(gradients(tanh_gelu(x), [x]), gradients(module(x), [x]), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_other_types_stay_as_they_are(dtype: torch.dtype) -> None:
    run = fused(tiny.random_model("llama", dtype))
    assert kinds(run) == set()
    assert not any(module._forward_pre_hooks for module in run.model.modules())


def gradients(y: torch.Tensor, by: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The gradients of a sum with unlike weights."""
    weights = torch.linspace(-1, 2, y.numel()).view(y.shape)
    return list(torch.autograd.grad((y.float() * weights).sum(), by))


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("family", WITH_NORMS)
def test_norms_and_their_gradients_are_those_of_the_module(family: str) -> None:
    base = tiny.random_model(family)
    norm: Any = copy.deepcopy(base.family.final_norm_of(base.model))
    norm.weight = nn.Parameter(torch.randn(norm.weight.shape), requires_grad=False)
    mine = norm_of(norm)
    assert mine is not None
    x = (torch.randn(2, 5, len(norm.weight)) * 4).requires_grad_()
    near(mine(x), norm(x))
    near(gradients(mine(x), [x])[0], gradients(norm(x), [x])[0])


def attention_input(module: Any, width: int, given: int = 3) -> dict[str, Any]:
    e, heads = module.head_dim, module.k_proj.out_features // module.head_dim
    angles = torch.randn(2, 5, e // 2).repeat(1, 1, 2)
    past = torch.randn(2, heads, given, e), torch.randn(2, heads, given, e)
    mask = torch.zeros(2, 1, 5, given + 5)
    mask[..., given:] += torch.full((5, 5), torch.finfo(torch.float32).min).triu(1)
    mask[1, ..., : min(given, 1)] = torch.finfo(torch.float32).min
    return {
        "hidden_states": torch.randn(2, 5, width).requires_grad_(),
        "position_embeddings": (angles.cos(), angles.sin()),
        "attention_mask": mask,
        "cache": GivenPast({module.layer_idx: past}),
    }


@pytest.mark.parametrize("given", [0, 3])
@pytest.mark.parametrize("family", GROUPED)
def test_attention_and_its_gradient_are_those_of_the_module(family: str, given: int) -> None:
    base = tiny.random_model(family)
    module: Any = tiny.blocks(base.model)[1].self_attn
    mine = GroupedAttention(module, torch.float32)
    asked = attention_input(module, module.q_proj.in_features, given)
    x = asked["hidden_states"]
    found, expected = mine(**asked)[0], module(**asked)[0]
    near(found, expected)
    near(gradients(found, [x])[0], gradients(expected, [x])[0], 1e-4)


def test_keys_that_are_to_be_kept_are_the_module_s() -> None:
    base = tiny.random_model("llama")
    module: Any = tiny.blocks(base.model)[1].self_attn
    asked = attention_input(module, module.q_proj.in_features)
    cache = asked["cache"] = GivenPast(asked["cache"].past, keep=True)
    GroupedAttention(module, torch.float32)(**asked)
    assert cache.kept[1][0].shape[2] == 3 + 5


@pytest.mark.parametrize("family", WITH_NORMS)
def test_a_gated_mlp_and_its_gradient_are_those_of_the_module(family: str) -> None:
    module: Any = tiny.blocks(tiny.random_model(family).model)[1].mlp
    activation = activation_of(module)
    assert activation is not None
    mine = GatedMlp(module, activation)
    x = (torch.randn(2, 5, module.gate_proj.in_features) * 3).requires_grad_()
    near(mine(x), module(x))
    near(gradients(mine(x), [x])[0], gradients(module(x), [x])[0], 1e-4)


def test_a_gated_mlp_with_another_activation_stays(llama: LoadedModel) -> None:
    module: Any = copy.deepcopy(tiny.blocks(llama.model)[0].mlp)
    assert may_be_gated(module)
    module.act_fn = nn.Tanh()
    assert activation_of(module) is None
    module.more = nn.Identity()
    assert not may_be_gated(module)


@pytest.mark.parametrize("bias", [False, True])
def test_projections_of_one_input_are_one_product_where_they_lie_together(bias: bool) -> None:
    parts = [nn.Linear(4, n, bias=bias).requires_grad_(False) for n in (3, 2, 5)]
    x = torch.randn(2, 4)
    expected = torch.cat([part(x) for part in parts], dim=-1)
    apart = SameInput(parts)
    assert apart.whole is None
    near(apart(x), expected)
    rows = torch.cat([part.weight for part in parts]).split([3, 2, 5])
    for part, weight in zip(parts, rows, strict=True):
        part.weight = nn.Parameter(weight, requires_grad=False)
    together = SameInput(parts)
    assert together.whole is not None
    near(together(x), expected)
    # what hooks are for is done by the module itself
    seen: list[Any] = []
    parts[1].register_forward_hook(lambda module, args, output: seen.append(output))
    near(together(x), expected)
    assert len(seen) == 1


def test_matrices_of_one_input_are_rounded_once_and_lie_together(llama: LoadedModel) -> None:
    view, rounded = ModelView(llama), Rounded()
    first, second = (in_bfloat16(view, rounded).model for _ in range(2))
    for block, again in zip(tiny.blocks(first), tiny.blocks(second), strict=True):
        for names in SAME_INPUT:
            owner = block.self_attn if names[0] == "q_proj" else block.mlp
            twin = again.self_attn if names[0] == "q_proj" else again.mlp
            weights = [getattr(owner, name).weight.data for name in names]
            whole = joined(weights)
            assert whole is not None
            assert torch.equal(whole, torch.cat(weights))
            assert all(getattr(twin, n).weight is getattr(owner, n).weight for n in names)
    assert joined(weights[::-1]) is None
    # one that was edited since is rounded with the others of its input
    name = "model.layers.1.mlp.up_proj.weight"
    view.replace(name, view.parameter(name) + 1)
    mlp = tiny.blocks(in_bfloat16(view, rounded).model)[1].mlp
    assert joined([mlp.gate_proj.weight.data, mlp.up_proj.weight.data]) is not None
    assert torch.equal(mlp.up_proj.weight, view.parameter(name).to(torch.bfloat16))


def matrices(run: ModelView) -> dict[str, int]:
    """Where the matrices of a model lie in memory."""
    return {name: one.data_ptr() for name, one in run.model.named_parameters() if one.dim() == 2}


def test_rounded_matrices_are_kept_from_one_edit_to_the_next() -> None:
    base = tiny.random_model("llama")
    first = Twin(ModelView(base)).now()
    edited = ModelView(base)
    for name in ("model.layers.1.mlp.up_proj.weight", "model.layers.2.mlp.down_proj.weight"):
        edited.replace(name, edited.parameter(name) + 1)
    second = Twin(edited).now()
    # one that was written is rounded with that of the same input, which lies beside it
    changed = {name for name, at in matrices(second).items() if at != matrices(first)[name]}
    assert changed == {
        "model.layers.1.mlp.gate_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.2.mlp.down_proj.weight",
    }
    for name, weight in second.model.named_parameters():
        assert torch.equal(weight, edited.parameter(name).to(weight.dtype))
    # what it has rounded goes with it; the model's own lie beside one another as before
    assert matrices(Twin(ModelView(base)).now()) == matrices(first)


def test_a_matrix_that_was_written_to_in_place_is_rounded_again() -> None:
    base = tiny.random_model("llama")
    first = Twin(ModelView(base)).now()
    weight = base.model.get_parameter("model.layers.2.mlp.down_proj.weight")
    with torch.no_grad():
        weight.add_(1)
    second = Twin(ModelView(base)).now()
    found = second.model.get_parameter("model.layers.2.mlp.down_proj.weight")
    assert torch.equal(found, weight.to(torch.bfloat16))
    name = "model.layers.1.mlp.down_proj.weight"
    assert matrices(second)[name] == matrices(first)[name]
    # as a model is that is moved to another device: the parameter is the same object
    weight.data = weight.data + 1
    third = Twin(ModelView(base)).now().model.get_parameter("model.layers.2.mlp.down_proj.weight")
    assert torch.equal(third, weight.to(torch.bfloat16))


def test_rounded_matrices_of_a_large_model_go_with_their_edit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tiny.random_model("llama")
    monkeypatch.setattr(rounding, "KEPT_BYTES", 1000)
    first = Twin(ModelView(base)).now()
    assert matrices(first)[HEAD] != matrices(Twin(ModelView(base)).now())[HEAD]


@contextmanager
def no_collector() -> Iterator[None]:
    """Nothing is freed in the block but what nobody refers to any more."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("kept_bytes", [KEPT_BYTES, 0])
@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_a_twin_goes_with_its_last_user(
    family: str, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the garbage collector, which may come many edits later."""
    monkeypatch.setattr(rounding, "KEPT_BYTES", kept_bytes)
    base = tiny.random_model(family)
    name, _ = max(ModelView(base).model.named_parameters(), key=lambda pair: ".mlp." in pair[0])
    with no_collector():
        view = ModelView(base)
        view.replace(name, view.parameter(name) + 1)
        run = Twin(view).now()
        modules = [weakref.ref(module) for module in run.model.modules()]
        edited = weakref.ref(run.model.get_parameter(name))
        rounded = [
            weakref.ref(one) for one in run.model.parameters() if one.dtype == torch.bfloat16
        ]
        assert kinds(run) == kinds(fused(base))
        del view, run
        assert not any(module() is not None for module in modules)
        assert edited() is None
        # with room for them, those of the base model serve the next edit
        assert any(one() is not None for one in rounded) == bool(kept_bytes)


def test_what_is_kept_of_a_model_goes_with_it() -> None:
    base = tiny.random_model("llama")
    kept = weakref.ref(Twin(ModelView(base)).now().model.get_parameter(HEAD))
    other = Twin(ModelView(base)).now()
    assert kept() is other.model.get_parameter(HEAD)
    del base, other
    gc.collect()
    assert kept() is None


def test_a_model_with_fused_parts_gives_way_before_every_product(llama: LoadedModel) -> None:
    """Four in a block, forward and backward: two of them take several projections together."""
    waited: list[int] = []
    view = ModelView(llama)
    with giving_way(view, Monitor(give_way=lambda: waited.append(1))):
        twin = Twin(view).now()
        waited.clear()  # parts were recognised by what they answer
        run_whole(twin, torch.bfloat16)
    assert len(waited) == 2 * 4 * llama.n_layers


class _Shifted(nn.Module):
    """A norm with the attributes of a known one and another formula."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = like.weight, like.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + 0.01).rsqrt()


def test_a_module_with_known_attributes_and_other_numbers_stays(llama: LoadedModel) -> None:
    known: Any = llama.family.final_norm_of(llama.model)
    other = _Shifted(known)
    assert len(gains_of(other)) == 2
    assert norm_of(known) is not None
    assert norm_of(other) is None


class _Other(nn.Module):
    """A module without parameters that takes, or gives, something else than numbers (…)."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.given = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.given(x)


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: x.shape[3],  # an IndexError
        lambda x: x.split(32)[9],
        lambda x: int("no number"),
        lambda x: x.no_such_attribute,
        lambda x: (x, x),
        lambda x: None,
        lambda x: torch.full_like(x, torch.nan),
    ],
)
def test_a_module_that_is_asked_in_vain_stays(forward: Any) -> None:
    assert not is_gelu(_Other(forward))


def test_attention_that_computes_something_else_stays() -> None:
    """A scaling of keys that no attribute shows."""
    base = tiny.random_model("llama")
    module: Any = tiny.blocks(base.model)[1].self_attn
    kind = type("Other", (type(module),), {"forward": lambda self, **k: _halved(module, k)})
    base.model.model.layers[1].self_attn.__class__ = kind
    assert [m for m in fused(base).model.modules() if _is_grouped(m)] != []
    assert not _is_grouped(tiny.blocks(fused(base).model)[1].self_attn)


def _is_grouped(module: nn.Module) -> bool:
    return isinstance(module.__dict__.get("forward"), GroupedAttention)


def _halved(module: Any, given: dict[str, Any]) -> Any:
    given["hidden_states"] = given["hidden_states"] / 2
    return type(module).__mro__[1].forward(module, **given)


def test_what_goes_into_several_matrices_is_cast_once() -> None:
    once, linear = CastOnce(), nn.Linear(4, 4)
    x, y = torch.randn(2, 4), torch.randn(2, 4)
    first, second = once(linear, (x,)), once(linear, (x, 1))
    assert first is not None
    assert second is not None
    assert first[0].dtype == torch.bfloat16
    assert second[0] is first[0]
    assert second[1:] == (1,)
    other = once(linear, (y,))
    assert other is not None
    assert torch.equal(other[0], y.to(torch.bfloat16))
    assert once(linear, (x.to(torch.bfloat16),)) is None


def run_whole(view: ModelView, dtype: torch.dtype | None) -> list[torch.Tensor]:
    """Last states of six tokens in two rows, and the gradient by what enters; float32."""
    base = view.base
    x = torch.randn(2, 6, base.hidden_size, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    positions = torch.arange(6).expand(2, 6)
    mask = Attention.of(base).mask(positions[:, :0], positions, torch.float32)
    past = GivenPast(no_past(view, 2, base.n_layers - 1))
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        y = base.family.backbone_of(view.model)(
            inputs_embeds=x,
            attention_mask=mask,
            position_ids=positions,
            cache=past,
            use_cache=False,
        ).last_hidden_state
        return [y.detach().float(), gradients(y, [x])[0]]


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_a_whole_model_is_near_to_float32_with_fused_parts_as_without(family: str) -> None:
    base = tiny.random_model(family)
    plain = in_bfloat16(ModelView(base))
    plain.model.set_attn_implementation("eager")
    exact = run_whole(ModelView(base), None)
    own, found = (run_whole(view, torch.bfloat16) for view in (plain, fused(base)))
    for one, other, truth in zip(found, own, exact, strict=True):
        off, theirs = (one - truth).norm() / truth.norm(), (other - truth).norm() / truth.norm()
        assert off <= max(2 * theirs, 0.01)
        assert off < 0.1


def test_the_norm_keeps_the_type_that_sums_of_states_have() -> None:
    norm = RootMeanSquareNorm(torch.ones(4), 1e-6)
    assert norm(torch.randn(3, 4, dtype=torch.bfloat16)).dtype == torch.float32
