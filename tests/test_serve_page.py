"""Steering live in a real Chromium: what a person does on the page, and what it shows."""

# ruff: noqa: F811 (fixtures of another file)

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from engine_models import shipped_model, shipped_sae
from report_folders import write_step
from served import Served, serving
from test_report_pages import DESK, PHONE, barriers, browser, comparison, sweep, sync_api  # noqa: F401
from test_report_pages import pytestmark as pytestmark

from saesteer.analysis.tables import OUTCOMES
from saesteer.engine.interventions import Addition, packed
from saesteer.methods.compare.tables import METHOD_SUMMARIES
from saesteer.run import Run
from saesteer.serve.requests import SteeringField
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.steps.features import FEATURES
from saesteer.steps.fits import FITS

PROMPT = "People often say that"


@pytest.fixture(scope="module")
def served(sweep: tuple[Run, Path]) -> Iterator[Served]:
    run, page = sweep
    with serving(run, page.parent, {layer: shipped_sae(layer) for layer in run.layers}) as server:
        yield server


@pytest.fixture(scope="module")
def compared(comparison: tuple[Run, Path]) -> Iterator[Served]:
    """A comparison's server: DiffMean has a vector for each concept."""
    run, page = comparison
    concepts, (layer,) = run.summary(COMPARED_CONCEPTS)["concept_id"], run.layers
    keys = {"layer": layer, "method": "diffmean", "features": [], "n_texts": 8, "fit_seconds": 0.1}
    rows = []
    for number, concept_id in enumerate(concepts):
        vector = torch.nn.functional.one_hot(torch.tensor(number), shipped_model().d_model).float()
        tensors, values = packed(Addition(vector, 100.0))
        fitted = {"kind": "addition", "tensors": tensors, "values": values, "residual_change": 1.0, "residual_norm": 9.0}
        rows.append(dict.fromkeys(FITS.columns) | keys | {"concept_id": concept_id} | fitted)
    write_step(run.data, FITS, pl.DataFrame(rows, schema=FITS.schema))
    with serving(run, page.parent, {layer: shipped_sae(layer)}) as server:
        yield server


@pytest.fixture
def page(browser: Any, served: Served, compared: Served) -> Iterator[Any]:
    """A page of a server; at the end it may not have complained, or asked for anything of another server."""
    complaints: list[str] = []
    page = browser.new_page(viewport=DESK)
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith((served.address, compared.address, "data:")) else complaints.append(request.url),
    )
    yield page
    hurt = page.evaluate("window.hurt")
    page.close()
    assert ([said for said in complaints if "status of 400" not in said], hurt) == ([], None)  # refusals are shown on the page


def write(page: Any) -> list[str]:
    """Press Write; gives the texts on both sides once they have ended."""
    page.get_by_role("button", name="Write").click()
    page.wait_for_selector(".card .text")
    page.wait_for_selector(".caret", state="detached")
    return [text.removeprefix(PROMPT) for text in page.locator(".card .text").all_inner_texts()]


def test_search_a_feature_and_steer_with_it(sweep: tuple[Run, Path], served: Served, page: Any) -> None:
    features = sweep[0].summary(FEATURES).filter(pl.col("n_examples") > 0)
    layer, feature = features.select("layer", "feature").row(0)
    page.goto(f"{served.address}/#/")
    page.get_by_role("link", name="Steer", exact=True).click()
    begun = page.locator(".strengths a").inner_text()  # to begin with, the best feature at its recommended strength
    best = sweep[0].summary(OUTCOMES).sort("judge_score", "layer", "feature", descending=[True, False, False], nulls_last=True)
    assert begun == "{}/{}".format(*best.select("layer", "feature").row(0))
    page.get_by_role("button", name=f"remove {begun}").click()
    page.get_by_label("Add a feature").fill(f"{layer}/{feature}")
    page.locator(".found button").click()
    page.get_by_label("Prompt").fill(PROMPT)
    page.locator(".strengths input[type=number]").fill("2.5")
    texts = write(page)
    steering = {"features": [{"layer": layer, "feature": feature, "factor": 2.5}]}
    setting, sampling = served.model.setting(SteeringField.model_validate(steering)), served.model.sampling(None)
    page.wait_for_selector(".bars")
    assert len(texts) == 4
    assert texts[2:] == [of.text for of in served.ended(served.model.texts(PROMPT, setting, sampling, 2, 0))]
    assert barriers(page) == []
    address = page.url
    page.goto("about:blank")
    page.goto(address)  # the link to the setting
    page.wait_for_selector(".strengths input[type=number]")
    assert write(page) == texts
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme="dark")
    assert barriers(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_choose_what_a_method_fitted_and_steer_with_it(comparison: tuple[Run, Path], compared: Served, page: Any) -> None:
    """Instead of features, with the larger of the factors that the halves chose."""
    run = comparison[0]
    scores = run.summary(METHOD_SUMMARIES["method_scores"]).filter(method="diffmean")
    _, second = scores.filter(pl.col("abstains").not_()).select("concept", "factors").rows()[:2]
    concept, factor = second[0], max(map(float, filter(None, second[1])))
    page.goto(f"{compared.address}/#/steer?f={run.layers[0]}/1*2")
    page.get_by_label("Or what a method fitted").select_option("diffmean")
    page.get_by_label("for the concept").select_option(concept)
    assert float(page.get_by_label("Strength", exact=True).input_value()) == factor
    assert page.locator(".strengths").count() == 0
    page.get_by_label("Strength", exact=True).fill("3")
    page.get_by_label("Prompt").fill(PROMPT)
    texts = write(page)
    fit = {"fit": {"method": "diffmean", "concept": concept, "layer": run.layers[0], "factor": 3}}
    setting, sampling = compared.model.setting(SteeringField.model_validate(fit)), compared.model.sampling(None)
    assert texts[2:] == [of.text for of in compared.ended(compared.model.texts(PROMPT, setting, sampling, 2, 0))]
    assert texts[2:] != texts[:2]
    assert page.locator(".bars").count() == 0  # these are of a feature
    assert barriers(page) == []
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    sync_api.expect(page.locator(".fields input[type=number]").first).to_have_value("3")
    assert page.get_by_label("for the concept").input_value() == concept
    assert write(page) == texts
    page.get_by_label("Add a feature").fill("{}/{}".format(*run.summary(FEATURES).select("layer", "feature").row(0)))
    page.locator(".found button").click()
    assert page.get_by_label("Or what a method fitted").input_value() == ""


def test_what_the_server_refuses_is_said_on_the_page(served: Served, page: Any) -> None:
    page.goto(f"{served.address}/#/steer?p={'people+' * 100}")
    page.get_by_role("button", name="Write").click()
    assert "at most 64" in page.locator("[role=alert]").inner_text()
    assert page.locator(".caret, .copy").count() == 0  # no text is being written


def test_a_report_opened_from_disk_has_no_page_to_steer(sweep: tuple[Run, Path], browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{sweep[1].as_uri()}#/")
    page.wait_for_selector("main h1")
    assert page.get_by_role("link", name="Steer", exact=True).count() == 0
    page.close()
