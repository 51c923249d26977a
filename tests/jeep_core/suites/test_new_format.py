"""The worked example of docs/extending.md: one module and one entry in FORMATS add a format."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.library.documents import shown_code
from support.library.suite_records import COUNTERFACT, PLAIN, ZSRE, lines, stream

from jeep_core.spec.facts import Fact
from jeep_core.suites import Case, InvalidSuite, Style, SuiteReader, load_suite
from jeep_core.suites.edits import facts_of
from jeep_core.suites.formats.registry import FORMATS

STATEMENT = {"sentence": "Lyon lies in", "about": "Lyon", "now": "Japan", "before": "France"}


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that the page shows, registered."""
    module = ModuleType("statements")
    code = shown_code("extending.md", "jeep_core/suites/formats/statements.py")
    exec(compile(code, "docs/extending.md", "exec"), module.__dict__)
    monkeypatch.setitem(FORMATS, module.NAME, module)  # type: ignore[arg-type]
    return module


@pytest.mark.usefixtures("statements")
def test_a_file_of_the_new_format_is_recognised_and_read(tmp_path: Path) -> None:
    path = tmp_path / "statements.jsonl"
    path.write_bytes(lines([{**STATEMENT, "id": "a"}, {**STATEMENT, "now": "Peru"}]).read())
    suite = load_suite(path)
    assert suite.cases == (
        Case("Lyon", "{} lies in", "Japan", "France", id="a"),
        Case("Lyon", "{} lies in", "Peru", "France", id="1"),
    )
    assert (suite.style, suite.report.format) == (Style.CONTRAST, "statements")
    assert suite.report.unread == {}


@pytest.mark.usefixtures("statements")
def test_bad_records_of_the_new_format_are_refused_by_their_field() -> None:
    with pytest.raises(InvalidSuite) as caught:
        load_suite(stream([STATEMENT, {**STATEMENT, "now": 5}]))
    [problem] = caught.value.problems
    assert (problem.line, problem.field, problem.code) == (3, "now", "not_text")
    lacking = load_suite(stream([STATEMENT, {**STATEMENT, "sentence": "It lies in"}]))
    assert lacking.report.dropped == {"no_subject": 1}


@pytest.mark.usefixtures("statements")
@pytest.mark.parametrize(
    ("record", "name"), [(COUNTERFACT, "counterfact"), (ZSRE, "zsre"), (PLAIN, "plain")]
)
def test_the_other_formats_are_recognised_as_before(record: dict[str, Any], name: str) -> None:
    assert load_suite(stream([record])).report.format == name


@pytest.mark.usefixtures("statements")
def test_records_of_the_new_format_are_edited_with() -> None:
    [found] = facts_of(SuiteReader([STATEMENT]))
    assert found.fact == Fact("Lyon", "{} lies in", "Japan", "France")
