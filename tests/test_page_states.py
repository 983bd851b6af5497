"""Pages of a report and rating sheets as they are used: Back and addresses, a piece that is missing, two tabs, a held key."""

# ruff: noqa: F811 (fixtures of another file)

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from chromium_pages import PHONE, browser, opened, sync_api  # noqa: F401
from chromium_pages import pytestmark as pytestmark
from served import Served
from test_serve_hostile import held
from test_serve_page import compared, comparison, page, served, setting, sweep, write, written  # noqa: F401

from saesteer.rating.sheet import sheet_html
from saesteer.run import Run
from saesteer.site.folder import write_report
from saesteer.steps.features import FEATURES


def test_the_address_says_which_layer_is_shown_and_back_keeps_the_search(sweep: tuple[Run, Path], opened: Callable[..., Any]) -> None:
    page = opened(sweep[1], "features?layer=1")
    rows = page.locator("[role=row][data-at] .id")
    page.wait_for_selector("[role=row][data-at]")
    assert {text.partition("/")[0] for text in rows.all_inner_texts()} == {"1"}
    first = rows.first.inner_text()
    page.get_by_label("Search").fill(first)
    rows.first.click()
    page.wait_for_selector(f"h1:text-is('Feature {first}')")
    page.go_back()
    page.wait_for_selector("[role=row][data-at]")
    assert page.get_by_label("Search").input_value() == first
    page.evaluate("location.hash = '#/features?layer=0'")
    page.wait_for_function("document.querySelector('[role=row][data-at] .id')?.textContent.startsWith('0/')")
    assert {text.partition("/")[0] for text in rows.all_inner_texts()} == {"0"}


def test_a_column_that_is_missing_is_said(sweep: tuple[Run, Path], browser: Any, tmp_path: Path) -> None:
    """As in a copy that was broken off; and an address that is none shows a page."""
    copy = tmp_path / "report"
    shutil.copytree(sweep[1].parent, copy)
    for piece in (copy / "data/c/lens").glob("*.js"):
        piece.unlink()
    page = browser.new_page()
    page.goto(f"{(copy / 'index.html').as_uri()}#/features")
    page.wait_for_selector("[role=alert]")
    page.goto(f"{(copy / 'index.html').as_uri()}#/feature/%")
    page.wait_for_selector("main h1")
    page.close()


def test_intervals_are_called_by_their_level(sweep: tuple[Run, Path], opened: Callable[..., Any], tmp_path: Path) -> None:
    run = sweep[0]
    selection = run.experiment.selection.model_copy(update={"confidence": 0.5})
    other = replace(run, experiment=run.experiment.model_copy(update={"selection": selection}))
    for report, level in ((write_report(other, tmp_path / "report"), "50 %"), (sweep[1], "95 %")):
        opened(report, "").wait_for_selector(f"text={level} intervals over")


def test_ratings_of_two_tabs_are_kept_and_a_held_key_rates_once(comparison: tuple[Run, Path], tmp_path: Path, browser: Any) -> None:
    sheet = tmp_path / "rate.html"
    sheet.write_text(sheet_html(comparison[0], 4, 0), encoding="utf-8")
    context = browser.new_context(viewport=PHONE)
    first, second = context.new_page(), context.new_page()
    for tab in (first, second):
        tab.goto(sheet.as_uri())
    for key in "1213":
        second.keyboard.press(key)
    first.wait_for_selector("#progress:has-text('2 rated')")
    first.bring_to_front()
    for key in "33":
        first.keyboard.press(key)
    first.reload()
    assert "Text 3 of 4, question 1 of 2; 2 rated" in first.inner_text("#progress")  # the first text anew, the second as in the other tab
    first.locator("#options button").nth(1).focus()
    keys = context.new_cdp_session(first)
    for repeat in range(6):
        enter = {"key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}
        keys.send("Input.dispatchKeyEvent", {"type": "keyDown", "autoRepeat": repeat > 0} | enter)
    assert "Text 3 of 4, question 2 of 2; 2 rated" in first.inner_text("#progress")
    context.close()


def test_what_is_typed_while_a_fit_is_loaded_stays(compared: Served, page: Any) -> None:
    page.goto(f"{compared.address}/#/steer")
    held: list[Any] = []
    page.route("**/data/m/*.json", lambda route: held.append(route))
    page.get_by_label("Or what a method fitted").select_option("diffmean")
    page.get_by_label("Prompt").fill("My own prompt")
    page.get_by_label("Seed").fill("77")
    while not held:
        page.wait_for_timeout(20)
    for route in held:
        route.continue_()
    page.get_by_label("for the concept").wait_for()
    assert (page.get_by_label("Prompt").input_value(), page.get_by_label("Seed").input_value()) == ("My own prompt", "77")


def test_a_strength_is_any_number_that_the_field_takes(sweep: tuple[Run, Path], served: Served, page: Any) -> None:
    layer, feature = sweep[0].summary(FEATURES).select("layer", "feature").row(0)
    page.goto(f"{served.address}/{setting(f'{layer}/{feature}*2')}")
    written(page)
    page.locator(".strengths input[type=number]").fill("1e0")
    write(page)
    assert page.locator("[role=alert]").count() == 0
    assert page.locator(".strengths a").inner_text() == f"{layer}/{feature}"


def test_a_refusal_stays_while_texts_grow(served: Served, page: Any) -> None:
    with held(served):
        page.goto(f"{served.address}/{setting('1/836*2')}")
        page.wait_for_selector(".caret")
        page.get_by_label("Seed").fill("")
        page.get_by_role("button", name="Write").click()
    written(page)
    sync_api.expect(page.locator("[role=alert]")).to_have_text("The seed is empty: type a whole number from 0 up.")


def test_the_answer_to_an_earlier_sentence_replaces_no_later_one(served: Served, page: Any) -> None:
    page.goto(f"{served.address}/{setting('1/836*2')}")
    asked: list[Any] = []
    page.route("**/api/activations", lambda route: asked.append(route))
    for sentence in ("The first one", "The second one"):
        page.get_by_label("Sentence").fill(sentence)
        with page.expect_request("**/api/activations"):
            page.get_by_role("button", name="Look").click()
    for route in reversed(asked):
        with page.expect_response("**/api/activations"):
            route.fulfill(json={"tokens": route.request.post_data_json["prompt"].split(), "activations": [1, 0, 0]})
    assert "second" in page.locator(".activated").inner_text()
