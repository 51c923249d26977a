"""What an exported folder calls its base model."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from jeep_core.exports.bases import BaseName, base_name
from jeep_core.exports.card import CARD, Origin, write_card


def origin(base: BaseName) -> Origin:
    return Origin(
        base=base.text, hub_id=base.hub_id, base_sha256="0" * 64, version="v1",
        weights_sha256="1" * 64, n_facts=0, editors=["memit"], created_at="now", release="0.1.0",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./mymodel", "mymodel"),
        ("../models/mine/", "mine"),
        ("/srv/secret/own model", "own model"),
        ("/tmp/some.gguf", "some.gguf"),
        ("models/some.GGUF", "some.GGUF"),
        ("~/models/mine", "mine"),
        ("C:\\models\\mine", "mine"),
        ("a/b/c", "c"),
        ("/srv/two\nlines", "two lines"),
        ("atlas-gptj", "atlas-gptj"),
    ],
)
def test_of_a_path_only_its_last_part_is_told(name: str, said: str) -> None:
    found = base_name(name)
    assert found == BaseName(said, None)
    assert found.loaded_by == "BASE_FOLDER"
    assert f"the model folder of {said};" in found.comment


def test_a_hub_id_is_told_as_it_is() -> None:
    found = base_name("owner/some-model.v2", Path("/elsewhere"))
    assert (found.text, found.hub_id) == ("owner/some-model.v2", "owner/some-model.v2")
    assert (found.loaded_by, found.comment) == ("owner/some-model.v2", "")


def test_a_folder_that_looks_like_a_hub_id_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert base_name("owner/model", Path("owner/model")) == BaseName("model")
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert base_name("owner/model") == BaseName("model")


@pytest.mark.parametrize("name", ["gpt2", "my-name", "/cache/models--o--m/snapshots/12ab"])
@pytest.mark.parametrize(
    ("folder", "hub_id"), [("models--owner--model", "owner/model"), ("models--gpt2", "gpt2")]
)
def test_a_folder_of_the_hubs_cache_has_its_hub_id(name: str, folder: str, hub_id: str) -> None:
    where = Path("/cache") / folder / "snapshots" / "12ab"
    assert base_name(name, where) == BaseName(hub_id, hub_id)


def test_the_folder_one_stands_in_has_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert base_name(".", tmp_path / "mine").text == "mine"
    assert base_name(".").text == "model"


def test_hubs_are_told_of_a_base_model_only_by_its_id(tmp_path: Path) -> None:
    heads = []
    for name in ("/srv/secret/mine", "owner/model"):
        write_card(tmp_path, origin(base_name(name)), "peft", "use", "said")
        text = (tmp_path / CARD).read_text()
        assert "secret" not in text
        heads.append(yaml.safe_load(text.split("---")[1]))
    assert "base_model" not in heads[0]
    assert heads[1]["base_model"] == "owner/model"
