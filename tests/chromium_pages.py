"""Pages in a real Chromium, and what is wrong with them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from workflow_folder import CHROMIUM

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")]

PHONE, DESK = {"width": 400, "height": 800}, {"width": 1400, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox needs rights that root and many containers have not; all that is opened was made here.
        names = "--host-resolver-rules=MAP *.test 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", names])
        yield browser
        browser.close()


@contextmanager
def watched(browser: Any, servers: tuple[str, ...], **look: Any) -> Iterator[Any]:
    """A browser's page; at the end it may not have complained, asked any but these servers, or run a text as a program."""
    complaints: list[str] = []
    page = browser.new_page(**look)
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: None if request.url.startswith((*servers, "data:")) else complaints.append(request.url))
    yield page
    hurt = page.evaluate("window.hurt")
    page.close()
    assert ([said for said in complaints if "status of 400" not in said], hurt) == ([], None)  # pages show what a server refuses


def visit(page: Any, report: Path, route: str) -> None:
    """Goes to a page of a report and waits until it is there."""
    page.goto(f"{report.as_uri()}#/{route}")
    page.wait_for_selector("main h1, main [role=alert]")
    page.wait_for_selector("main [role=status]:has-text('Loading')", state="detached")


def barriers(page: Any) -> list[tuple[str, list[str]]]:
    """What axe finds on a page: rule, and elements that break it."""
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    faults = axe.Axe().run(page, options={"preload": False, "runOnly": rules, "resultTypes": ["violations"]}).response["violations"]
    return [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in faults]


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page of a report from disk, and closes the one before."""
    with ExitStack() as pages:

        def open_(report: Path, route: str, size: dict[str, int] = DESK, scheme: str = "light") -> Any:
            pages.close()
            page = pages.enter_context(watched(browser, ("file:",), viewport=size, color_scheme=scheme))
            visit(page, report, route)
            return page

        yield open_
