"""Texts that no page was made for, in every place: long words, right to left, lines, markup."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from support.service.builders import move
from support.service.bundled_model import publish
from support.service.console.histories import HOSTILE, batch, fact
from support.service.console.pictures import SIZES, look_at
from support.service.serving import make_settings, running

from service.ops.embedded_server import EmbeddedValkey
from service.store import Store

LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerk" * 4
RIGHT_TO_LEFT = ("مدينة ليون", "اليابان")
PAGES = (
    "history", "history/versions/v2", "history/compare?a=v1&b=v2", "facts", "facts/v2/0",
    "facts/v2/1", "facts/v2/2", "edit?lost={edit}", "edit?again={edit}", "edit/{edit}", "state",
)  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of an api without a worker, and the edit that taught such texts."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "valkey").mkdir()
    with EmbeddedValkey(folder / "valkey") as server:
        settings = make_settings(folder / "store", server.url)
        store = Store.open(settings.store)
        publish(store)
        batch(store, "v0", fact("Lyon", "Italy", "France"))
        move(store, "v1", expected="v0")
        facts = [
            fact(LONG, LONG, LONG), fact(*RIGHT_TO_LEFT), fact("two\nlines\u202e", "new\n\nlines"),
            fact(HOSTILE, HOSTILE),
        ]  # fmt: skip
        batch(store, "v1", *facts, warnings=[f"{LONG} {HOSTILE}"], snapshot_name="a" * 64)
        move(store, "v2", expected="v1")
        store.names.give("a" * 64, "v2")
        edit = store.versions.read("v2").edit_id
        assert edit is not None
        with running(settings) as url:
            yield url, edit


@pytest.fixture
def reader(service: tuple[str, str], chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(base_url=service[0])
    page = context.new_page()
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    yield page
    context.close()


@pytest.mark.parametrize("path", PAGES)
def test_no_page_is_wider_than_its_window(
    path: str, reader: Page, service: tuple[str, str]
) -> None:
    reader.goto("/console/" + path.format(edit=service[1]))
    expect(reader.locator("h1")).to_be_visible()
    reader.wait_for_load_state("networkidle")
    for width, height in SIZES.values():
        reader.set_viewport_size({"width": width, "height": height})
        assert reader.evaluate("() => document.documentElement.scrollWidth") <= width
    assert reader.locator("main img").count() == 0


def test_a_dialog_holds_them_as_well(reader: Page) -> None:
    reader.goto("/console/history/versions/v1")
    reader.get_by_role("button", name="Make it head").click()
    expect(reader.locator("dialog")).to_contain_text(HOSTILE[:20])
    look_at(reader, "hostile-dialog", whole=False)


def test_an_arrow_points_from_the_subject_to_the_answer(reader: Page) -> None:
    """Also between texts that are written from right to left."""
    reader.goto("/console/history")
    row = reader.locator(".versions .change").first
    expect(row).to_contain_text(RIGHT_TO_LEFT[0])
    subject, answer = (row.locator("bdi", has_text=text).bounding_box() for text in RIGHT_TO_LEFT)
    assert subject is not None
    assert answer is not None
    assert subject["x"] < answer["x"]
