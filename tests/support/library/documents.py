"""Code that the documentation shows, so that a test can run what a reader would copy."""

from __future__ import annotations

import re

from support import ROOT


def shown_code(page: str, caption: str) -> str:
    """The code block of ``docs/<page>`` below the line that is ``caption`` in backticks."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(rf"^`{re.escape(caption)}`:\n\n```\w*\n(.*?)^```$", text, re.M | re.S)
    assert found, f"docs/{page} shows no code for {caption}"
    return found[1]
