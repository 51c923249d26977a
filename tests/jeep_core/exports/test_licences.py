"""Which licence an exported folder names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jeep_core.exports.card import CARD, licence_fields, licence_of
from jeep_core.models.library import RECORD

APACHE = "Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0)"
TERMS = "Gemma Terms of Use (https://ai.google.dev/gemma/terms)"


def test_a_folders_own_card_comes_first(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(json.dumps({"licence": APACHE}))
    assert licence_of(tmp_path) == APACHE
    (tmp_path / CARD).write_text("---\nlicense: mit\n---\n# A model\n")
    assert licence_of(tmp_path) == "mit"


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
def test_hubs_are_told_a_short_name_or_other(licence: str, fields: dict[str, str]) -> None:
    assert licence_fields(licence) == fields
