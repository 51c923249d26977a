"""Figures of the paper, to be shown beside measured ones (Shi et al., AAAI 2025).

10,000 edits on GPT-J (6B) and LLaMA (7B).  Columns are Score, ES, GS, LS in percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

PaperModel = Literal["gpt-j", "llama"]
Figures = tuple[float, float, float, float]
UNEDITED = "unedited"
OURS = "jeep"
"""The editor that the paper proposes."""

ZSRE: Mapping[PaperModel, Mapping[str, Figures]] = {
    "gpt-j": {
        UNEDITED: (26.4, 26.4, 25.8, 27.0),
        "ft-wd": (42.1, 69.6, 64.8, 24.1),
        "mend": (20.0, 19.4, 18.6, 22.4),
        "rome": (2.6, 21.0, 19.6, 0.9),
        "malmen": (47.1, 98.3, 90.1, 23.6),
        "memit": (50.7, 96.7, 89.7, 26.6),
        "pmet": (51.0, 96.9, 90.6, 26.7),
        "jeep": (51.5, 98.4, 91.5, 26.9),
    },
    "llama": {
        UNEDITED: (44.4, 43.6, 42.6, 49.2),
        "malmen": (66.7, 90.1, 84.6, 45.3),
        "memit": (70.4, 95.1, 89.5, 47.8),
        "pmet": (69.2, 91.3, 86.4, 48.0),
        "jeep": (72.3, 96.0, 93.2, 49.1),
    },
}
"""Table 2."""

COUNTERFACT: Mapping[PaperModel, Mapping[str, Figures]] = {
    "gpt-j": {
        UNEDITED: (22.4, 15.2, 17.7, 83.5),
        "ft-wd": (67.6, 99.4, 77.0, 46.9),
        "mend": (23.1, 15.7, 18.5, 83.0),
        "rome": (50.3, 50.2, 50.4, 50.2),
        "malmen": (63.4, 98.2, 46.0, 65.1),
        "memit": (85.8, 98.9, 88.6, 73.7),
        "pmet": (86.2, 99.5, 92.8, 71.4),
        "jeep": (86.5, 99.8, 90.9, 73.1),
    },
    "llama": {
        UNEDITED: (19.7, 12.9, 16.0, 83.8),
        "malmen": (66.1, 96.0, 55.3, 59.3),
        "memit": (84.1, 98.4, 80.6, 76.3),
        "pmet": (84.8, 98.9, 86.2, 73.2),
        "jeep": (85.9, 99.8, 85.4, 75.7),
    },
}
"""Table 3."""

ABLATION: Mapping[str, Figures] = {
    "w/o δ′ & step 2": (66.3, 89.8, 56.6, 60.7),
    "w/o δ* & step 3": (84.1, 98.4, 80.6, 76.3),
    "w/o step 2": (40.0, 36.5, 24.1, 81.5),
    "w/o step 3": (81.9, 95.4, 77.5, 75.4),
    "separate optimisation": (83.3, 98.2, 83.3, 72.5),
    "even spread in step 2": (85.4, 98.8, 84.0, 76.3),
    "w/ attention in step 3": (85.2, 99.0, 86.6, 73.8),
    "JEEP": (85.9, 99.8, 85.4, 75.7),
}
"""Table 4, LLaMA (7B), Multi-CounterFact."""

CASE: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("edited", "Where was Henry S. LeBlanc from?",
     {"memit": "Canada", "pmet": "Canada", "jeep": "Canada"}),
    ("equivalent", "Where did Henry S. LeBlanc come from?",
     {"memit": "of course", "pmet": "Canada", "jeep": "Canada"}),
    ("unrelated", "Where does creatine come from in the body?",
     {"memit": "liver", "pmet": "Where is creatine from?", "jeep": "liver"}),
)  # fmt: skip
"""Table 1, LLaMA (7B) after 10,000 zsRE edits: kind of prompt, prompt, answer by editor."""
