"""What a study of a tiny model is made of: four cases, presets of two editors, and a corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from jeep_core import atlas
from jeep_core.commands.reproduce import Options
from support.library.tiny import random_model

LOW = {"layers": [0, 1], "clamp": 1.0, "moment_weight": 10.0}
HIGH = {"layers": [2], "clamp": 0.5, "moment_weight": 10.0}
JEEP = {"low": LOW, "high": HIGH, "n_steps": 2, "n_prefixes": 2}
MEMIT = {"low": LOW, "n_steps": 2, "n_prefixes": 1}


@pytest.fixture
def inputs(tmp_path: Path) -> Options:
    """A suite of four cases, presets and a corpus for the tiny model."""
    cases = [
        {
            "subject": name,
            "prompt": "{} lies in",
            "target_new": "Peru",
            "target_true": "France",
            "paraphrase_prompts": [f"The city of {name} is in"],
            "neighborhood_prompts": ["Turin lies in", "Oslo lies in"],
        }
        for name in ("Lyon", "<b>Osaka</b>", "Quito", "Perth")
    ]
    suite = tmp_path / "suite.jsonl"
    suite.write_text("\n".join(map(json.dumps, cases)))
    presets = tmp_path / "presets"
    presets.mkdir()
    for editor, hparams in (("jeep", JEEP), ("memit", MEMIT)):
        preset = {"editor": editor, "model": "tiny-gptj", "origin": "test", "hparams": hparams}
        (presets / f"{editor}-tiny.yaml").write_text(yaml.safe_dump(preset))
    model = random_model("gptj")
    model.model.save_pretrained(tmp_path / "tiny-gptj")
    model.tokenizer.save(str(tmp_path / "tiny-gptj" / "tokenizer.json"))
    return Options(
        model=str(tmp_path / "tiny-gptj"),
        suite=str(suite),
        zsre="-",
        presets=presets,
        corpus=atlas.CORPUS,
        samples=6000,
        edits=4,
        device="cpu",
        dtype="float32",
        out=tmp_path / "out",
    )
