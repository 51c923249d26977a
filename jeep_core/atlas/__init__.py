"""The bundled world: two small models that know real geography, their facts and suites."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parent / "data"
MODELS = {"atlas-gptj": DATA / "gptj", "atlas-llama": DATA / "llama"}
LICENCE = "CC-BY-4.0 (https://creativecommons.org/licenses/by/4.0/)"
"""Of the models' weights and the texts, with its address."""
CORPUS = DATA / "corpus.txt"
HELDOUT = DATA / "heldout.txt"
SUITES = {
    "atlas-counterfact": DATA / "counterfact.json",
    "atlas-counterfact-validation": DATA / "counterfact-validation.json",
    "atlas-zsre": DATA / "zsre.json",
}
