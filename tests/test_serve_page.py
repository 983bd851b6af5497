"""Steering live in a real Chromium: what a person does on the page, and what it shows."""

# ruff: noqa: F811 (fixtures of another file)

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from engine_models import shipped_sae
from served import Served, serving
from test_report_pages import DESK, PHONE, axe, browser, sweep  # noqa: F401
from test_report_pages import pytestmark as pytestmark

from saesteer.core.tables import FEATURES
from saesteer.run import Run
from saesteer.serve.requests import SteeringField
from saesteer.serve.scheduler import Progress, Text

PROMPT = "People often say that"


@pytest.fixture(scope="module")
def served(sweep: tuple[Run, Path]) -> Iterator[Served]:
    run, page = sweep
    with serving(run, page.parent, {layer: shipped_sae(layer) for layer in run.layers}) as server:
        yield server


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    """A page of the server; at the end it may not have complained, or asked for anything of another server."""
    complaints: list[str] = []
    page = browser.new_page(viewport=DESK)
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith((served.address, "data:")) else complaints.append(request.url))
    yield page
    hurt = page.evaluate("window.hurt")
    page.close()
    assert ([said for said in complaints if "status of 400" not in said], hurt) == ([], None)  # refusals are shown on the page


def write(page: Any) -> list[str]:
    """Press Write; gives the texts on both sides once they have ended."""
    page.get_by_role("button", name="Write").click()
    page.wait_for_selector(".bars")
    page.wait_for_selector(".caret", state="detached")
    return [text.removeprefix(PROMPT) for text in page.locator(".card .text").all_inner_texts()]


def written(served: Served, texts: Sequence[Text]) -> list[str]:
    """The texts, by the scheduler alone."""
    last, ended = [""] * len(texts), threading.Semaphore(0)

    def write(number: int, progress: Progress) -> None:
        last[number] = progress.text
        if progress.finish:
            ended.release()

    served.scheduler.submit(texts, write)
    for _ in texts:
        assert ended.acquire(timeout=30)
    return last


def test_search_a_feature_and_steer_with_it(sweep: tuple[Run, Path], served: Served, page: Any) -> None:
    features = sweep[0].summary(FEATURES).filter(pl.col("n_examples") > 0)
    layer, feature = features.select("layer", "feature").row(0)
    page.goto(f"{served.address}/#/")
    page.get_by_role("link", name="Steer", exact=True).click()
    page.get_by_label("Add a feature").fill(f"{layer}/{feature}")
    page.locator(".found button").click()
    page.get_by_label("Prompt").fill(PROMPT)
    page.locator(".strengths input[type=number]").fill("2.5")
    texts = write(page)
    steering = {"features": [{"layer": layer, "feature": feature, "factor": 2.5}]}
    setting, sampling = served.model.setting(SteeringField.model_validate(steering)), served.model.sampling(None)
    assert len(texts) == 4
    assert texts[2:] == written(served, served.model.texts(PROMPT, setting, sampling, 2, 0))
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    faults = axe.Axe().run(page, options={"preload": False, "runOnly": rules}).response["violations"]
    assert [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in faults] == []
    address = page.url
    page.goto("about:blank")
    page.goto(address)  # the link to the setting
    page.wait_for_selector(".strengths input[type=number]")
    assert write(page) == texts
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_what_the_server_refuses_is_said_on_the_page(served: Served, page: Any) -> None:
    page.goto(f"{served.address}/#/steer?p={'people+' * 100}")
    page.get_by_role("button", name="Write").click()
    assert "at most 64" in page.locator("[role=alert]").inner_text()


def test_a_report_opened_from_disk_has_no_page_to_steer(sweep: tuple[Run, Path], browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{sweep[1].as_uri()}#/")
    page.wait_for_selector("main h1")
    assert page.get_by_role("link", name="Steer", exact=True).count() == 0
    page.close()
