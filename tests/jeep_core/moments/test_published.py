"""Import of the published statistics, written here as the ROME and MEMIT code writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import GOLDEN
from support.library import tiny

import jeep_core
from jeep_core.errors import JeepError
from jeep_core.models.loading import LoadedModel, load
from jeep_core.moments.cache import Moments
from jeep_core.moments.published import Imported

NAME = {"gptj": "transformer.h.{}.mlp.fc_out", "llama": "model.layers.{}.mlp.down_proj"}
NULL = np.frombuffer(bytes.fromhex("020000000000f8ff"), dtype="<f8").reshape(())  # their None


def write(
    folder: Path, base: LoadedModel, layer: int = 1, file: str = "", **changes: Any
) -> tuple[Path, torch.Tensor]:
    """A file of their format and the moment in it."""
    kind = base.name.removeprefix("tiny-")
    keys = torch.randn(500, base.mlp_size, generator=torch.Generator().manual_seed(layer))
    data: dict[str, Any] = {
        "mom2.constructor": "util.runningstats.SecondMoment()",
        "mom2.count": 500,
        "mom2.mom2": (keys.T @ keys).numpy(),
        "sample_size": 100,
        **changes,
    }
    path = folder / (file or NAME[kind].format(layer) + "_float32_mom2_100.npz")
    np.savez(path, **{key: value for key, value in data.items() if value is not None})
    return path, keys.double().T @ keys.double() / 500


@pytest.mark.parametrize("family", ["gptj", "llama"])
def test_an_imported_file_stands_in_for_a_corpus(
    family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base: LoadedModel = request.getfixturevalue(family)
    imported = Imported(tmp_path / "moments", "wikipedia")
    expected = {}
    for layer in (1, 3):
        path, expected[layer] = write(tmp_path, base, layer)
        record = imported.add(base, path)
        assert (record["layer"], record["tokens"], record["documents"]) == (layer, 500, 100)
    moments = Moments(base, [], folder=tmp_path / "moments", imported="wikipedia")
    moments.ensure([1, 3])
    for layer in (1, 3):
        found = moments.factor(layer).moment
        assert (found - expected[layer]).norm() <= 1e-6 * expected[layer].norm()
        assert torch.equal(found, found.T)


def test_an_imported_moment_has_its_own_key_and_provenance(
    gptj: LoadedModel, tmp_path: Path
) -> None:
    path, _ = write(tmp_path, gptj)
    imported = Imported(tmp_path / "moments", "wikipedia")
    record = imported.add(gptj, path)
    assert imported.provenance(gptj, 1) == record
    assert record["file"].endswith("transformer.h.1.mlp.fc_out_float32_mom2_100.npz")
    assert record["written_by"] == "util.runningstats.SecondMoment()"
    assert (record["dtype"], record["model_hash"]) == ("float32", gptj.model_hash)
    key = Moments(gptj, [], folder=tmp_path / "moments", imported="wikipedia").key(1)
    taken = Moments(gptj, tiny.TEXTS, folder=tmp_path / "moments")
    assert key != taken.key(1)
    taken.ensure([1])
    assert not torch.equal(
        taken.factor(1).moment, imported_moments(gptj, tmp_path).factor(1).moment
    )


def imported_moments(base: LoadedModel, folder: Path) -> Moments:
    found = Moments(base, [], folder=folder / "moments", imported="wikipedia")
    found.ensure([1])
    return found


def test_an_edit_needs_no_corpus(gptj: LoadedModel, tmp_path: Path) -> None:
    path, _ = write(tmp_path, gptj)
    Imported(tmp_path, "wikipedia").add(gptj, path)
    result = jeep_core.edit(
        gptj,
        [{"subject": "Lyon", "prompt": "{} lies in", "target_new": "Peru"}],
        "memit",
        hparams={
            "low": {"layers": [1], "clamp": 1.0, "weight_decay": 0.5, "moment_weight": 10.0,
                    "spread": "linear"},
            "n_steps": 3, "learning_rate": 0.5, "kl_weight": 0.06,
        },
        prefixes=[""],
        moments=Moments(gptj, [], folder=tmp_path, imported="wikipedia"),
    )  # fmt: skip
    assert result.layers[0].relative_norm > 0


def test_a_layer_that_was_not_imported_is_named(gptj: LoadedModel, tmp_path: Path) -> None:
    path, _ = write(tmp_path, gptj)
    Imported(tmp_path, "wikipedia").add(gptj, path)
    moments = Moments(gptj, tiny.TEXTS, folder=tmp_path, imported="wikipedia")
    with pytest.raises(JeepError, match=r"layer 2 has no imported second moments .*wikipedia"):
        moments.ensure([1, 2])
    with pytest.raises(JeepError, match="layer 2 has no imported"):
        moments.key(2)


def test_a_name_takes_one_file_per_layer(gptj: LoadedModel, tmp_path: Path) -> None:
    path, _ = write(tmp_path, gptj)
    imported = Imported(tmp_path / "moments", "wikipedia")
    assert imported.add(gptj, path) == imported.add(gptj, path)
    write(tmp_path, gptj, **{"mom2.count": 501})
    with pytest.raises(JeepError, match="take another name"):
        imported.add(gptj, path)
    Imported(tmp_path / "moments", "other").add(gptj, path)


def test_the_layer_of_a_file_may_be_given(gptj: LoadedModel, tmp_path: Path) -> None:
    path, _ = write(tmp_path, gptj, file="mom2.npz")
    imported = Imported(tmp_path / "moments", "wikipedia")
    with pytest.raises(JeepError, match="does not say its layer"):
        imported.add(gptj, path)
    assert imported.add(gptj, path, layer=2)["layer"] == 2
    named, _ = write(tmp_path, gptj, 1)
    with pytest.raises(JeepError, match="is of layer 1, not 3"):
        imported.add(gptj, named, layer=3)


def test_files_without_a_count_are_read_as_published(gptj: LoadedModel, tmp_path: Path) -> None:
    path, _ = write(tmp_path, gptj, sample_size=NULL)
    assert Imported(tmp_path, "all").add(gptj, path)["documents"] is None


SQUARE = np.eye(128, dtype=np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mom2.mom2": None}, r"lacks mom2.mom2; it has .*mom2.count"),
        ({"mom2.count": None}, r"lacks mom2.count"),
        ({"mom2.count": 0}, r"mom2.count is 0"),
        ({"mom2.count": NULL}, r"mom2.count is nan"),
        ({"mom2.constructor": "util.runningstats.Covariance()"}, r"Covariance.*not a SecondMom"),
        ({"mom2.mom2": SQUARE[:64]}, r"\(64, 128\), not square"),
        ({"mom2.mom2": SQUARE.astype(int)}, r"int64 .*not square floats"),
        ({"mom2.mom2": np.eye(96, dtype=np.float32)}, r"96 dimensions.* 128"),
        ({"mom2.mom2": SQUARE * np.nan}, r"not finite"),
        ({"mom2.mom2": -SQUARE}, r"negative diagonal"),
        ({"mom2.mom2": SQUARE + np.eye(128, k=1, dtype=np.float32)}, r"not symmetric"),
        ({"file": "transformer.h.1.mlp.c_proj_float32_mom2_100.npz"}, r"c_proj.*mlp\.fc_out"),
        ({"file": "model.layers.1.mlp.down_proj_float32_mom2_9.npz"}, r"down_proj.*mlp\.fc_out"),
        ({"file": "transformer.h.9.mlp.fc_out_float32_mom2_100.npz"}, r"4 layers, none 9"),
    ],
)
def test_a_wrong_file_is_refused_with_its_reason(
    gptj: LoadedModel, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path, _ = write(tmp_path, gptj, **changes)
    with pytest.raises(JeepError, match=message):
        Imported(tmp_path / "moments", "x").add(gptj, path)
    assert not (tmp_path / "moments").exists()


def test_a_file_that_is_no_archive_is_refused(gptj: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "transformer.h.1.mlp.fc_out_float32_mom2_100.npz"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(JeepError, match=r"is no \.npz file"):
        Imported(tmp_path, "x").add(gptj, path)
    with pytest.raises(JeepError, match="cannot be read: No such file"):
        Imported(tmp_path, "x").add(gptj, path.with_name("transformer.h.2.mlp.fc_out_float32_mom2"))


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(JeepError, match="names no statistics"):
        Imported(tmp_path, name)


def test_the_published_example_model_is_accepted(tmp_path: Path) -> None:
    """A model loaded from a folder, as users have it."""
    base = load(str(GOLDEN / "gpt-j-tiny"), device="cpu", dtype="float32")
    keys = torch.randn(400, base.mlp_size)
    path = tmp_path / "transformer.h.0.mlp.fc_out_float32_mom2_100000.npz"
    np.savez(path, **{"mom2.count": 400, "mom2.mom2": (keys.T @ keys).numpy()})
    assert Imported(tmp_path, "wikipedia").add(base, path)["documents"] is None
