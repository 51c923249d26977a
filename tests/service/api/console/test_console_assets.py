"""The files of the console: what is vendored, what a page loads, what a wheel has."""

import gzip
import hashlib
import json
import re
import tomllib
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
from support import ROOT
from support.service.console import sign_in

from service.api.console.assets import assets
from service.api.console.navigation import NAVIGATION
from service.api.http.sessions import CONSOLE
from service.store import Store

ROOM = Path(str(files("service.api.console")))
VENDOR = ROOM / "static/vendor"
MOST_BYTES = 300_000
LOADED = re.compile(r'(?:src|href)="(/console/static/[^"]+)"')
IMPORTED = re.compile(r'(?:from|import)\s+"\./([\w./-]+)"')


def loaded_by(page: httpx.Response) -> set[str]:
    """The files that a page loads, also those that its scripts import."""
    found = {path.removeprefix(f"{CONSOLE}/static/") for path in LOADED.findall(page.text)}
    waiting = list(found)
    while waiting:
        name = waiting.pop()
        imported = set(IMPORTED.findall(assets()[name].content.decode())) - found
        if name.endswith(".js") and not name.startswith("vendor/"):
            found |= imported
            waiting += imported
    return found


def test_what_is_vendored_is_recorded_with_its_source_and_hash() -> None:
    record = json.loads((VENDOR / "vendored.json").read_text())
    recorded = {"vendored.json"}
    for package in record:
        name, version = package["name"], package["version"]
        assert package["source"].startswith("https://registry.npmjs.org/")
        assert package["source"].endswith(f"/{name}-{version}.tgz")
        licence = (VENDOR / package["licence_file"]).read_text()
        assert "permission" in licence.lower()
        recorded.add(package["licence_file"])
        for file, about in package["files"].items():
            content = (VENDOR / file).read_bytes()
            assert hashlib.sha256(content).hexdigest() == about["sha256"], f"{file} is changed"
            recorded.add(file)
    assert {path.name for path in VENDOR.iterdir()} == recorded


@pytest.mark.parametrize("entry", NAVIGATION, ids=lambda entry: entry.name)
def test_a_page_loads_little_and_nothing_from_elsewhere(
    entry: object, shown: httpx.Client, kept: Store
) -> None:
    sign_in(shown, kept)
    page = shown.get(entry.path)  # type: ignore[attr-defined]
    assert page.status_code == 200
    names = loaded_by(page)
    assert {"console.css", "console.js", "vendor/htmx.min.js"} <= names
    sent = len(gzip.compress(page.content))
    for name in names:
        answer = shown.get(f"{CONSOLE}/static/{name}", headers={"Accept-Encoding": "gzip"})
        assert answer.status_code == 200, name
        assert answer.headers["content-encoding"] == "gzip"
        sent += int(answer.headers["content-length"])
    assert sent <= MOST_BYTES, f"{sent:,} bytes"
    assert not re.findall(r"(?:src|href|action)=\"(?!/|#)", page.text), "everything is from here"
    for inline in ("<style", " style=", "<script>", " onclick=", "javascript:"):
        assert inline not in page.text


def test_files_are_sent_as_they_are_and_only_once(shown: httpx.Client) -> None:
    path = f"{CONSOLE}/static/vendor/htmx.min.js"
    plain = shown.get(path, headers={"Accept-Encoding": "identity"})
    assert plain.content == (VENDOR / "htmx.min.js").read_bytes()
    assert plain.headers["content-type"].startswith("text/javascript")
    again = shown.get(path, headers={"If-None-Match": plain.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "%2e%2e",
        "%2e%2e/assets.py",
        "vendor/htmx.LICENSE",
        "vendor",
        "..%2f..%2fapp.py",
        "a%00b",
    ],
)
def test_other_files_are_not_given_out(name: str, shown: httpx.Client) -> None:
    answer = shown.get(f"{CONSOLE}/static/{name}", headers={"Accept": "*/*"})
    assert answer.status_code in (401, 404)
    assert b"import" not in answer.content


def test_a_wheel_has_all_files() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = packaged["package-data"]["service"]
    found = {path for pattern in patterns for path in (ROOT / "service").glob(pattern)}
    found |= {path for path in found if path.is_dir() for path in path.rglob("*")}
    for folder in ("templates", "static"):
        files_there = {path for path in (ROOM / folder).rglob("*") if path.is_file()}
        assert files_there
        assert files_there <= found


def test_texts_in_templates_are_escaped_everywhere() -> None:
    """No template takes a text for HTML, and none is left out of escaping."""
    for path in (ROOM / "templates").rglob("*"):
        if path.is_file():
            assert path.suffix == ".html"
            assert not re.search(r"\|\s*safe|autoescape|Markup", path.read_text()), path.name
    for path in (ROOM / "static").glob("*.js"):
        text = path.read_text()
        risky = r"\.(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(|setHTML"
        assert not re.search(risky, text), path.name
