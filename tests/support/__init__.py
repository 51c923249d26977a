"""Helpers of the tests, and where their files are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
TINY_GPTJ = GOLDEN / "gpt-j-tiny"
