"""Steering live in a real Chromium: what a person does on the page, and what it shows."""

# ruff: noqa: F811 (fixtures of another file)

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import polars as pl
import pytest
import torch
from chromium_pages import DESK, PHONE, barriers, browser, sync_api, watched  # noqa: F401
from chromium_pages import pytestmark as pytestmark
from engine_models import shipped_model, shipped_sae
from report_folders import first_order, write_step
from served import Served, serving
from test_report_pages import CHUNK, comparison, sweep  # noqa: F401
from test_serve_hostile import held

from saesteer.engine.interventions import Addition, PromptText, packed
from saesteer.engine.models import language_model
from saesteer.engine.steering import Intervention
from saesteer.methods.compare.tables import METHOD_SUMMARIES
from saesteer.run import Run
from saesteer.serve.requests import SteeringField
from saesteer.site.folder import write_report
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.steps.features import FEATURES
from saesteer.steps.fits import FITS

PROMPT = "People often say that"


@pytest.fixture(scope="module")
def served(sweep: tuple[Run, Path]) -> Iterator[Served]:
    run, page = sweep
    with serving(run, page.parent, {layer: shipped_sae(layer) for layer in run.layers}) as server:
        yield server


def fit_of(intervention: Intervention) -> dict[str, Any]:
    tensors, values = packed(intervention)
    return {"kind": intervention.kind, "tensors": tensors, "values": values, "residual_change": 1.0, "residual_norm": 9.0}


@pytest.fixture(scope="module")
def compared(comparison: tuple[Run, Path]) -> Iterator[Served]:
    """A comparison's server: DiffMean has a vector for each concept."""
    run, page = comparison
    concepts, (layer,) = run.summary(COMPARED_CONCEPTS)["concept_id"], run.layers
    keys = {"layer": layer, "method": "diffmean", "features": [], "n_texts": 8, "fit_seconds": 0.1}
    rows = [dict.fromkeys(FITS.columns) | keys | {"method": "prompting", "concept_id": concepts[0]} | fit_of(PromptText(("Be calm.",)))]
    for number, concept_id in enumerate(concepts):
        vector = torch.nn.functional.one_hot(torch.tensor(number), shipped_model().d_model).float()
        rows.append(dict.fromkeys(FITS.columns) | keys | {"concept_id": concept_id} | fit_of(Addition(vector, 100.0)))
    write_step(run.data, FITS, pl.DataFrame(rows, schema=FITS.schema))
    write_report(run, page.parent)
    with serving(run, page.parent, {layer: shipped_sae(layer)}) as server:
        yield server


@pytest.fixture
def page(browser: Any, served: Served, compared: Served) -> Iterator[Any]:
    with watched(browser, (served.address, compared.address), viewport=DESK) as page:
        yield page


def write(page: Any) -> list[str]:
    """Press Write; gives the texts on both sides once they have ended."""
    with page.expect_request("**/api/steer"):
        page.get_by_role("button", name="Write").click()
    return written(page)


def written(page: Any) -> list[str]:
    page.wait_for_selector("[aria-busy=false] .card .text")
    return [text.removeprefix(PROMPT) for text in page.locator(".card .text").all_inner_texts()]


def setting(*features: str, **others: str) -> str:
    """The address of a setting."""
    return "#/steer?" + urlencode([*(("f", one) for one in features), *({"p": PROMPT} | others).items()])


def choose(page: Any, needle: str) -> None:
    """Add the first feature that the search gives."""
    page.get_by_label("Add a feature").fill(needle)
    page.locator("[role=option]").first.wait_for()
    page.keyboard.press("Enter")


def test_search_a_feature_and_steer_with_it(sweep: tuple[Run, Path], served: Served, page: Any) -> None:
    features = sweep[0].summary(FEATURES).filter(pl.col("n_examples") > 0)
    layer, feature = features.select("layer", "feature").row(0)
    page.goto(f"{served.address}/#/")
    page.get_by_role("link", name="Steer", exact=True).click()
    begun = page.locator(".strengths a").inner_text()  # to begin with, the best feature at its recommended strength
    assert begun == first_order(sweep[0])[0]
    page.get_by_role("button", name=f"remove {begun}").click()
    choose(page, f"{layer}/{feature}")
    page.get_by_label("Prompt").fill(PROMPT)
    page.locator(".strengths input[type=number]").fill("2.5")
    texts = write(page)
    steering = {"features": [{"layer": layer, "feature": feature, "factor": 2.5}]}
    steered = served.model.setting(SteeringField.model_validate(steering))
    assert len(texts) == 4
    assert texts[2:] == [of.text for of in served.ended(served.model.texts(PROMPT, steered, served.model.sampling(), 2, 0))]
    assert barriers(page) == []
    address = page.url
    page.goto("about:blank")
    page.goto(address)  # the link to the setting
    assert written(page) == texts
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
    steered = compared.model.setting(SteeringField.model_validate(fit))
    assert texts[2:] == [of.text for of in compared.ended(compared.model.texts(PROMPT, steered, compared.model.sampling(), 2, 0))]
    assert texts[2:] != texts[:2]
    assert page.locator(".bars").count() == 0  # these are of a feature
    assert f'export-vector methods "diffmean/{concept}' in page.locator(".written").inner_text().replace("'", '"')
    assert barriers(page) == []
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    sync_api.expect(page.locator(".fields input[type=number]").first).to_have_value("3")
    assert page.get_by_label("for the concept").input_value() == concept
    assert written(page) == texts
    choose(page, "{}/{}".format(*run.summary(FEATURES).select("layer", "feature").row(0)))
    assert page.get_by_label("Or what a method fitted").input_value() == ""
    page.get_by_label("Or what a method fitted").select_option("prompting")
    page.get_by_label("Strength", exact=True).fill("1")
    write(page)
    assert "export-vector" not in page.locator(".written").inner_text()


def test_what_is_shown_belongs_to_the_setting_that_made_it(sweep: tuple[Run, Path], served: Served, page: Any) -> None:
    """Texts, bars, link and command, whatever is changed in the form; Back and a reload show it again."""
    first, second = (f"{layer}/{feature}" for layer, feature in sweep[0].summary(FEATURES).select("layer", "feature").rows()[:2])
    page.goto(f"{served.address}/{setting(f'{first}*1.6')}")
    made, shown = written(page), page.locator(".written section").all_inner_texts()
    page.locator(".strengths input[type=number]").fill("6")
    page.get_by_label("Prompt").fill("The stock market says that")
    page.get_by_role("button", name=f"remove {first}").click()
    assert page.locator(".written.stale").count() == 1
    assert page.locator(".written section").all_inner_texts() == shown
    assert barriers(page) == []
    page.reload()  # what was changed is still there, and what was made is made again
    sync_api.expect(page.get_by_label("Prompt")).to_have_value("The stock market says that")
    assert (written(page), page.locator(".written.stale").count()) == (made, 1)
    page.get_by_role("button", name="go back to their setting").click()
    assert (page.locator(".written.stale").count(), page.get_by_label("Prompt").input_value()) == (0, PROMPT)
    page.get_by_role("button", name=f"remove {first}").click()
    choose(page, second)
    others = write(page)
    assert others[:2] == made[:2]  # unsteered: the same prompt and seed
    assert others[2:] != made[2:]
    assert f"export-vector tiny {second} --factor" in page.locator(".written").inner_text()
    asked: list[Any] = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    page.go_back()
    page.wait_for_selector(f".written h3:has-text('{first}')")
    assert page.locator(".written section").all_inner_texts() == shown
    assert (page.locator(".strengths a").inner_text(), asked) == (first, [])


def test_the_best_fit_comes_first_and_enter_takes_it(sweep: tuple[Run, Path], served: Served, page: Any) -> None:
    """The whole label, a whole word, a word's beginning, then anywhere; only features that can be added; by keyboard alone."""
    names = ["{}/{}".format(*row) for row in sweep[0].summary(FEATURES).select("layer", "feature").rows()]
    labels = ["undersea", "a seasoned dish", "the sea", "sea", "sea", "seagull", "law", "law"]
    for column, lines in {"label": labels, "lens": ["none"] * 8, "more": ["none"] * 6 + ["court", "by the sea"]}.items():
        page.route(f"**/data/c/{column}/*.json", partial(answer_lines, lines))
    page.goto(f"{served.address}/#/steer")
    page.locator(".strengths button").click()
    box, options = page.get_by_label("Add a feature"), page.locator("[role=option]")
    box.fill("Sea")
    sync_api.expect(options).to_have_count(7)
    places = [names.index(text.split(" ")[0]) for text in options.all_inner_texts()]
    assert [set(places[:2]), *places[2:4], set(places[4:6]), places[6]] == [{3, 4}, 2, 7, {1, 5}, 0]
    assert "“sea” in its examples" in options.nth(3).inner_text()  # where nothing else says why it fits
    box.press("ArrowDown")
    assert page.locator("[aria-selected=true]").get_attribute("id") == box.get_attribute("aria-activedescendant")
    assert page.locator("[aria-selected=true] strong").inner_text() == names[places[1]]
    assert barriers(page) == []
    box.press("ArrowUp")
    box.press("Enter")
    first = names[places[0]]
    assert page.locator(".strengths a").all_inner_texts() == [first]
    box.fill("sea")
    combined = {name for name in names if name.split("/")[0] == first.split("/")[0]} - {first, names[6]}
    assert set(options.locator("strong").all_inner_texts()) == combined
    assert page.locator(".written").count() == 0  # Enter has written nothing


def answer_lines(lines: list[str], route: Any) -> None:
    start = int(Path(route.request.url).stem) * CHUNK
    route.fulfill(json="\n".join(lines[start : start + CHUNK]))


def test_stop_says_so(served: Served, page: Any) -> None:
    with held(served):
        page.goto(f"{served.address}/{setting('1/836*2')}")
        page.wait_for_selector(".caret")
        page.get_by_role("button", name="Stop").click()
        page.wait_for_selector("[aria-busy=false]")
        assert page.locator(".caret").count() == 0
        assert page.locator(".card .text").all_inner_texts() == [f"{PROMPT} stopped"] * 4
    assert len(write(page)) == 4


def test_bars_have_the_lengths_of_their_numbers(served: Served, page: Any) -> None:
    for size in (DESK, PHONE):
        page.set_viewport_size(size)
        page.goto(f"{served.address}/{setting('1/836*2')}")
        written(page)
        values = [float(text.replace("\u2212", "-")) for text in page.locator(".bars td").all_inner_texts()]
        widths = page.locator(".bar").evaluate_all("bars => bars.map((bar) => bar.getBoundingClientRect().width)")
        least, per_nat = min(values), max(widths) / (max(values) - min(values))
        assert widths == pytest.approx([per_nat * (value - least) for value in values], abs=0.15 * per_nat)  # numbers are shown to a tenth


def test_what_cannot_be_written_is_said(served: Served, page: Any) -> None:
    page.goto(f"{served.address}/{setting('1/836*2')}")
    written(page)
    for label, value, said in (
        ("1/836 cooking", "", "The strength of 1/836 is no number: type one, 0 for the unsteered text."),
        ("Seed", "", "The seed is empty: type a whole number from 0 up."),
        ("Tokens at most", "2.5", "The length is “2.5”: type a whole number from 1 up."),
        ("Temperature", "-1", "The temperature is “-1”: type a number from 0 up."),
        ("Prompt", "", "The prompt is empty: type a text to go on from."),
        ("Temperature", "3", "temperature: Input should be less than or equal to 2"),
    ):
        field = page.get_by_label(label).and_(page.locator("input:not([type=range])"))
        before = field.input_value()
        field.fill(value)
        page.get_by_role("button", name="Write").click()
        sync_api.expect(page.locator("[role=alert]")).to_have_text(said)
        field.fill(before)


def test_what_a_link_cannot_write_is_said(served: Served, page: Any) -> None:
    page.goto(f"{served.address}/{setting('1/836*')}")
    assert "strength of 1/836 is no number" in page.locator("[role=alert]").inner_text()
    page.goto("about:blank")
    page.goto(f"{served.address}/#/steer?p={'people+' * 100}")
    assert "at most 64" in page.locator("[role=alert]").inner_text()
    for number in ("4", "16", "2.5", "many"):
        page.goto("about:blank")
        page.goto(f"{served.address}/{setting('1/836*2')}&n={number}")
        assert "another number of texts of each than 1, 2, 3, 5, 8: choose" in page.locator("[role=alert]").inner_text()
    page.goto("about:blank")
    page.goto(f"{served.address}/#/steer?m=sae_decay-2/1*2&c=sea")
    assert page.locator("[role=alert]").inner_text() == "tiny compares no methods: there are no fits to steer with"
    page.goto("about:blank")
    page.goto(f"{served.address}/#/steer")
    page.get_by_label("Seed").fill("")
    page.get_by_role("button", name="Write").click()
    page.locator("[role=alert]").wait_for()
    page.get_by_role("button", name="Reset").click()
    sync_api.expect(page.locator("[role=alert]")).to_have_count(0)
    assert page.locator(".caret, .copy").count() == 0  # no text is being written


def test_a_server_that_is_gone_is_said(served: Served, page: Any) -> None:
    """Before a text and amid one."""
    part = 'data: {"steered": true, "sample": 0, "text": " the", "finish": null}\n\n'
    page.route("**/api/steer", lambda route: route.fulfill(body=part, content_type="text/event-stream"))
    page.goto(f"{served.address}/{setting('1/836*2')}")
    assert page.locator("[role=alert]").inner_text() == "The server cannot be reached: start `saesteer serve` again."
    assert page.locator(".caret").count() == 0
    assert f"{PROMPT} the stopped" in page.locator(".card .text").all_inner_texts()


def test_a_conversation_has_its_turns_in_boxes(sweep: tuple[Run, Path], browser: Any) -> None:
    """A system prompt, an answer, and a second question; each side answers the whole conversation."""
    run, page_path = sweep
    tokenizer = copy.deepcopy(shipped_model().tokenizer)
    tokenizer.chat_template = (
        "{% for turn in messages %}{{ turn.content }} {% endfor %}{% if add_generation_prompt %}People often say that{% endif %}"
    )
    lm = language_model(shipped_model().model, tokenizer, prompt_format="chat")
    with serving(run, page_path.parent, {layer: shipped_sae(layer) for layer in run.layers}, lm=lm) as server:
        page = browser.new_page(viewport=DESK)
        page.goto(f"{server.address}/{setting('1/836*2', p='the doctor')}")
        one = server.model.texts("the doctor", server.model.setting(SteeringField()), server.model.sampling(), 2, 0)
        written(page)
        assert page.locator(".card .turn-box.assistant .text").all_inner_texts()[:2] == [of.text for of in server.ended(one)]
        page.get_by_role("button", name="Go on from this answer").nth(2).click()
        page.get_by_role("button", name="Add a system prompt").click()
        page.get_by_label("system", exact=True).fill("It turned out that")
        page.get_by_label("user", exact=True).last.fill("the sea.")
        assert page.locator(".written.stale").count() == 1
        with page.expect_request("**/api/steer") as sent:
            page.get_by_role("button", name="Write").click()
        roles = [turn["role"] for turn in sent.value.post_data_json["prompt"]]
        assert roles == ["system", "user", "assistant", "user"]
        written(page)
        assert page.locator(".written .turn-box > span").all_inner_texts() == [*roles, *["assistant"] * 4]
        assert barriers(page) == []
        texts = page.locator(".card .turn-box.assistant .text").all_inner_texts()
        page.reload()
        written(page)
        assert page.locator(".card .turn-box.assistant .text").all_inner_texts() == texts
        page.close()


def test_how_a_feature_acts_is_chosen(served: Served, page: Any) -> None:
    """An ablation has no strength; temperature and length are the page's."""
    page.goto(f"{served.address}/{setting('1/836*2')}")
    written(page)
    act, strength = page.get_by_label("What is done with the feature"), page.locator(".strengths input[type=number]")
    for edit, value in (("projection", "1"), ("ablation", "1"), ("clamp", "2"), ("projection", "1"), ("addition", "2"), ("ablation", "1")):
        act.select_option(edit)
        sync_api.expect(strength).to_have_value(value)
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Tokens at most").fill("5")
    assert page.locator(".strengths input:enabled").count() == 0
    texts = write(page)
    steering = SteeringField.model_validate({"features": [{"layer": 1, "feature": 836, "factor": 1}], "edit": "ablation"})
    made = served.model.texts(PROMPT, served.model.setting(steering), served.model.sampling(5, 0.0), 2, 0)
    assert texts[2:] == [of.text for of in served.ended(made)]
    assert "steered (set to 0 (ablate): 1/836)" in page.locator(".written h3").all_inner_texts()
    page.get_by_role("button", name="Reset").click()
    sync_api.expect(page.locator(".written")).to_have_count(0)
    assert page.get_by_label("Tokens at most").input_value() == "20"
    example = page.locator(".presets a").first
    assert example.get_attribute("href").startswith("#/steer?f=1%2F836*")


def test_a_sentence_shows_where_it_activates_a_feature(served: Served, page: Any) -> None:
    """The most active token stands out; a sentence that has been changed since is not the one that was looked at. Some models
    do not measure the first token."""
    text, of_text = "The doctor treated the wound of a patient.", {"prompt": "The doctor treated the wound of a patient.", "layer": 1}
    made = {at: served.post("/api/activations", {**of_text, "feature": at}).json() for at in range(40)}
    feature = next(at for at, one in made.items() if max(one["activations"]) > 0)
    page.goto(f"{served.address}/{setting(f'1/{feature}*2')}")
    page.get_by_label("Sentence").fill(text)
    page.get_by_role("button", name="Look").click()
    assert page.locator(".activated").inner_text().strip() == text
    most = made[feature]["activations"].index(max(made[feature]["activations"]))
    assert page.locator(".activated .most").inner_text() == made[feature]["tokens"][most].strip("\u2581 ")
    assert page.locator(".activated mark").count() == sum(value > 0 for value in made[feature]["activations"])
    assert barriers(page) == []
    page.get_by_label("Sentence").fill("Another one.")
    assert page.locator(".stale .activated").inner_text().strip() == text
    for tokens, values, said in (
        (["The"], [None], "the first token is not measured on this model: write a word before it."),
        (["The", " sea"], [None, 0], "is not active on this sentence (its first token is not measured)"),
    ):
        answer = {"tokens": tokens, "activations": values}
        page.route("**/api/activations", lambda route, _, answer=answer: route.fulfill(json=answer))
        page.get_by_role("button", name="Look").click()
        page.get_by_text(said).wait_for()


def test_a_report_opened_from_disk_has_no_page_to_steer(sweep: tuple[Run, Path], browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{sweep[1].as_uri()}#/")
    page.wait_for_selector("main h1")
    assert page.get_by_role("link", name="Steer", exact=True).count() == 0
    page.close()
