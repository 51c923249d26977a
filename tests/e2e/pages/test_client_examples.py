"""The examples of docs/client.md run against a whole service, and print what the page shows."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from support import ROOT
from support.pages import examples, run

PAGE = ROOT / "docs" / "client.md"
ADDRESS = "http://127.0.0.1:8000"
"""Of the service, in the examples."""


def test_every_example_prints_what_the_page_shows(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service of its own, as the page shows the numbers of versions."""
    found = examples(PAGE)
    assert len(found) == PAGE.read_text("utf-8").count("```python") > 15
    serving = start(tmp_path / "store", tmp_path / "log")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JEEP_API_KEY", "jeep_key")
    names: dict[str, object] = {}
    try:
        for example in found:
            example = example._replace(code=example.code.replace(ADDRESS, serving.url))
            said = io.StringIO()
            with redirect_stdout(said):
                run(example, PAGE, names)
            assert said.getvalue() == (example.output or ""), f"{PAGE.name}, line {example.line}"
    finally:
        for name in ("client", "played", "client_of_tls"):
            getattr(names.get(name), "close", lambda: None)()
        serving.stop()
