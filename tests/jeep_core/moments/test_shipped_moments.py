"""Second moments that ship with the bundled models."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.library import tiny

from jeep_core import atlas
from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.errors import JeepError
from jeep_core.models.loading import LoadedModel, load, texts_of, texts_sha256
from jeep_core.moments import shipped as shipped_moments
from jeep_core.moments.cache import Moments
from jeep_core.moments.sums import MomentSums
from jeep_core.spec.hparams import presets_for, validate_hparams

TEXTS = texts_of(atlas.CORPUS)


@pytest.fixture(scope="module", params=sorted(atlas.MODELS))
def base(request: pytest.FixtureRequest) -> LoadedModel:
    return load(request.param, "cpu", "float32")


@pytest.fixture
def no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> MomentSums:
        raise AssertionError("the text was read")

    monkeypatch.setattr(Moments, "sums", refuse)


@pytest.mark.usefixtures("no_pass")
def test_no_text_is_read_for_what_a_default_edit_writes(base: LoadedModel, tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        moments = Moments(base, TEXTS, folder=folder)
        for preset in presets_for(base.name):
            if preset.editor == "jeep":
                hparams = validate_hparams(JeepHParams, preset.hparams, base.n_layers)
                moments.ensure(hparams.moment_layers)
                for layer in hparams.moment_layers:
                    assert moments.factor(layer).moment.shape == (base.mlp_size,) * 2


def test_shipped_moments_equal_those_of_the_text(base: LoadedModel) -> None:
    """Over the first tokens of it: a part is as close to the whole as text can be."""
    shipped, taken = Moments(base, TEXTS), Moments(base, TEXTS, 8 * base.mlp_size)
    taken.shipped = False
    for moments in (shipped, taken):
        moments.ensure([1])
    ours, theirs = shipped.factor(1).moment, taken.factor(1).moment
    scale = theirs.diagonal().sqrt()
    apart = ((ours - theirs).abs() / torch.outer(scale, scale)).mean()
    assert apart < 0.02
    assert (ours.trace() / theirs.trace() - 1).abs() < 0.02


@pytest.mark.usefixtures("no_pass")
def test_another_text_token_count_or_dtype_is_computed(base: LoadedModel) -> None:
    half = replace(base, model=load(base.name, "cpu", "bfloat16").model)
    own = Moments(base, TEXTS)
    for other in (
        Moments(base, TEXTS[1:]),
        Moments(base, TEXTS, own.samples + 1),
        Moments(half, TEXTS),
        Moments(base, TEXTS, shipped=False),
        Moments(replace(base, model_hash="0" * 64), TEXTS),
    ):
        assert other.key(1) != own.key(1)
        with pytest.raises(AssertionError, match="the text was read"):
            other.ensure([1])
    with pytest.raises(AssertionError, match="the text was read"):
        own.ensure([4])


def test_a_moment_comes_back_nearly_as_it_was() -> None:
    generator = torch.Generator().manual_seed(3)
    keys = torch.randn(500, 40, generator=generator, dtype=torch.float64) * torch.logspace(
        -3, 2, 40
    )
    moment = keys.T @ keys / len(keys)
    back = shipped_moments.unpacked(*shipped_moments.packed_factor(moment)).double()
    lower = torch.linalg.cholesky(moment)
    within = torch.linalg.solve_triangular(lower, back, upper=False)
    within = torch.linalg.solve_triangular(lower, within.T.contiguous(), upper=False)
    values = torch.linalg.eigvalsh((within + within.T) / 2)
    assert values.min() == pytest.approx(1, abs=0.01)
    assert values.max() == pytest.approx(1, abs=0.01)


def test_a_damaged_file_is_named(
    base: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(atlas.MODELS[base.name], tmp_path / "model")
    path = folder / "moments" / "layer-1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    monkeypatch.setitem(atlas.MODELS, base.name, folder)
    with pytest.raises(JeepError, match=r"layer-1\.safetensors is damaged"):
        Moments(base, TEXTS).ensure([1])


def test_other_models_have_no_shipped_moments() -> None:
    model = tiny.random_model("gptj")
    sha256 = texts_sha256(tiny.TEXTS)
    assert shipped_moments.shipped_file(model, 1, sha256, 100) is None
