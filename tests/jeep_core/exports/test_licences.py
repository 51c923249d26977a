"""Which licence an exported folder names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.library import gguf_files

from jeep_core import atlas
from jeep_core.exports.card import CARD, licence_fields, licence_of
from jeep_core.models.checkpoints.source import locate
from jeep_core.models.library import RECORD, Library

APACHE = "Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0)"
TERMS_OF_OWN = "own-terms (https://example.org)"
TERMS = "Gemma Terms of Use (https://ai.google.dev/gemma/terms)"


def test_a_folders_own_card_comes_first(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(json.dumps({"licence": APACHE}))
    assert licence_of(tmp_path) == APACHE
    (tmp_path / CARD).write_text("---\nlicense: mit\n---\n# A model\n")
    assert licence_of(tmp_path) == "mit"


def test_the_bundled_models_have_that_of_their_card() -> None:
    text = (Path(atlas.__file__).parent / "MODEL_CARD.md").read_text()
    assert "CC BY 4.0" in text.partition("## License")[2]
    for folder in atlas.MODELS.values():
        assert licence_of(folder) == "CC-BY-4.0 (https://creativecommons.org/licenses/by/4.0/)"


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ("license: [mit, apache-2.0]", "mit, apache-2.0"),
        ("license:\n- mit\n- apache-2.0", "mit, apache-2.0"),
        ("license: [mit]", "mit"),
        ("license: []", None),
        ("license: 3", None),
        ("license: other", "other"),
        ("license: other\nlicense_name: own-terms", "own-terms"),
        (
            "license: other\nlicense_name: own-terms\nlicense_link: https://example.org",
            "own-terms (https://example.org)",
        ),
    ],
)
def test_cards_name_several_or_one_of_another_name(
    tmp_path: Path, fields: str, licence: str | None
) -> None:
    (tmp_path / CARD).write_text(f"---\n{fields}\n---\n# A model\n")
    assert licence_of(tmp_path) == licence


@pytest.mark.parametrize(
    ("named", "licence"),
    [
        ({"": "gemma"}, "gemma"),
        ({"": "other", ".name": "own-terms", ".link": "https://example.org"}, TERMS_OF_OWN),
        ({}, None),
    ],
)
def test_a_model_started_from_a_gguf_file_has_that_of_the_file(
    tmp_path: Path, named: dict[str, str], licence: str | None
) -> None:
    def change(writer: Any) -> None:
        for end, value in named.items():
            writer.add_string(f"general.license{end}", value)

    path = tmp_path / "own.gguf"
    gguf_files.write(path, "llama", gguf_files.random_model("llama"), change=change)
    folder = locate(str(path), Library(tmp_path / "models"))
    assert licence_of(folder) == licence


@pytest.mark.parametrize("record", ["{}", '{"licence": null}', '{"licence": 3}', "no JSON"])
def test_a_folder_that_names_none_has_none(tmp_path: Path, record: str) -> None:
    assert licence_of(tmp_path) is None
    (tmp_path / RECORD).write_text(record)
    assert licence_of(tmp_path) is None


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        (APACHE, {"license": "apache-2.0"}),
        ("mit", {"license": "mit"}),
        ("MIT, Apache-2.0", {"license": ["mit", "apache-2.0"]}),
        ("CC-BY-4.0 (https://creativecommons.org/licenses/by/4.0/)", {"license": "cc-by-4.0"}),
        (
            TERMS,
            {
                "license": "other",
                "license_name": "gemma-terms-of-use",
                "license_link": "https://ai.google.dev/gemma/terms",
            },
        ),
        ("my own words", {"license": "other", "license_name": "my-own-words"}),
    ],
)
def test_hubs_are_told_a_short_name_or_other(licence: str, fields: dict[str, Any]) -> None:
    assert licence_fields(licence) == fields
