"""A real service with the bundled model, and a real browser that looks at its console."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright
from support import ROOT

START_SECONDS = 120
LM_EVAL_TASKS = ROOT / "tests" / "interop" / "tasks"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of ``jeep serve`` without keys on a new store."""
    folder = tmp_path_factory.mktemp("console")
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--auth", "off"]
    command += ["--model", "atlas-gptj", "--store", str(folder / "store")]
    environment = {n: value for n, value in os.environ.items() if not n.startswith("JEEP_")}
    environment |= {"JEEP_LM_EVAL_TASKS": str(LM_EVAL_TASKS), "HF_DATASETS_OFFLINE": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder
        )
        try:
            yield ready_address(folder / "log", process)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def ready_address(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        try:
            if found and httpx.get(f"{found[0]}/readyz").status_code == 200:
                return found[0]
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The machine's own Chromium; Playwright's is not fetched."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path, f"one of {', '.join(BROWSERS)} is needed"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def is_error(said: ConsoleMessage) -> bool:
    """Whether a page went wrong; refusals that it shows are none."""
    refused = r"(status of|Status Error Code) (409|412|422)"
    return said.type == "error" and not re.search(refused, said.text)


@pytest.fixture
def excused() -> list[str]:
    """Patterns of further errors, which a test brings about."""
    return []


@pytest.fixture
def page(chromium: Browser, service: str, excused: list[str]) -> Iterator[Page]:
    """A desktop page whose console must stay without errors, refused scripts included."""
    context = chromium.new_context(
        base_url=service, viewport={"width": 1280, "height": 860}, reduced_motion="reduce"
    )
    made = context.new_page()
    errors: list[str] = []
    made.on("console", lambda said: errors.append(said.text) if is_error(said) else None)
    made.on("pageerror", lambda error: errors.append(str(error)))
    yield made
    context.close()
    assert [one for one in errors if not any(re.search(each, one) for each in excused)] == []
