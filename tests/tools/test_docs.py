"""The pages of the documentation: links, the navigation of the site, and generated references."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

from tools.docs.http_reference import description, http_page, schemas_page
from tools.docs.library_reference import rooms, summary, write_library_reference
from tools.docs.site import GUIDE, REFERENCE, settings_for
from tools.readme_picture import FACT, PROMPTS, drawn

PAGES = ["README.md", *(page for part in GUIDE.values() for page in part.values())]
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
NAMED_PATH = re.compile(
    r"`((?:jeep_core|service|tests|tools|bench|deploy|docker|docs)/[\w./-]*\w/?)`"
)

MADE_LATER = {"bench/results/performance.json", "deploy/.env", "deploy/models"}
"""Files that a command or a reader makes, which the pages say."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def without_captions(text: str) -> str:
    """Without the lines that say which file a reader would write the code below them to."""
    return re.sub(r"^`[^`]*`:$", "", text, flags=re.M)


def anchors(text: str) -> set[str]:
    """Headings of a page as the ends of addresses."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: str) -> None:
    for address in LINK.findall(without_code(text_of(page))):
        if address.startswith("http"):
            continue
        name, _, anchor = address.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page}: {address}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {address}"


def test_every_page_is_in_the_navigation_once() -> None:
    written = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert written == {page for page in PAGES if page.startswith("docs/")}
    assert len(PAGES) == len(set(PAGES))


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    """Files of the repository in backticks, by their path from its root."""
    named = set(NAMED_PATH.findall(without_captions(text_of(page)))) - MADE_LATER
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_settings_name_every_page(tmp_path: Path) -> None:
    library = list(write_library_reference(tmp_path))
    http = [Path("http.md"), Path("schemas.md")]
    settings = tomllib.loads(settings_for(http, library))["project"]
    shown = json.dumps(settings["nav"])
    for page in (*PAGES, *(f"{REFERENCE}/{path.name}" for path in (*http, *library))):
        assert f'"{page}"' in shown
    handler = settings["plugins"]["mkdocstrings"]["handlers"]["python"]
    assert handler["paths"] == [str(ROOT)]
    assert handler["options"]["allow_inspection"] is False  # torch is never imported


def test_every_room_has_a_page_with_what_belongs_in_it(tmp_path: Path) -> None:
    found = {path.name for path in write_library_reference(tmp_path)}
    names = rooms(ROOT / "jeep_core")
    assert names[0] == "editing"
    assert {"editors", "models", "updates", "suites"} <= set(names)
    assert found == {
        "library.md",
        *(f"jeep_core.{name}.md" for name in names),
        "service.client.md",
        "service.settings.md",
    }
    assert all(summary(ROOT / "jeep_core" / name) for name in names)


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    return description()


def test_the_http_reference_has_every_operation_and_parameter(api: dict[str, Any]) -> None:
    page = http_page(api)
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            _, found, rest = page.partition(f"### {method.upper()} {path}\n")
            assert found, path
            section = rest.split("\n### ")[0]
            for parameter in operation.get("parameters", []):
                assert f"| `{parameter['name']}` |" in section
            for status in operation["responses"]:
                assert f"\n| {status} |" in section


def test_the_schemas_page_has_every_schema_and_field(api: dict[str, Any]) -> None:
    page = schemas_page(api)
    for name, schema in api["components"]["schemas"].items():
        _, found, rest = page.partition(f"### {name}\n")
        assert found, name
        section = rest.split("\n### ")[0]
        for field in schema.get("properties", {}):
            assert f"| `{field}` |" in section
    known = anchors(page)
    linked = re.findall(r"schemas\.md#([\w-]+)\)", page + http_page(api))
    assert linked
    assert set(linked) <= known
    assert "| `max_new_tokens` | integer, ≥ 0 | `16` |" in page


def test_the_picture_of_the_readme_is_drawn_from_its_record() -> None:
    figures = ROOT / "docs" / "figures"
    seen = json.loads((figures / "edit.json").read_text(encoding="utf-8"))
    assert drawn(seen) == (figures / "edit.svg").read_text(encoding="utf-8")
    before, after, restored = seen["states"]
    assert [row["prompt"] for row in after["rows"]] == [prompt for _, prompt in PROMPTS]
    assert restored["weights_sha256"] == before["weights_sha256"] != after["weights_sha256"]
    assert restored["rows"] == before["rows"]
    for row, old in zip(after["rows"], before["rows"], strict=True):
        assert row["answer"] == (FACT["object"] if "Lyon" in row["prompt"] else old["answer"])
