"""The report and the rating sheet in a real Chromium, opened from disk: by keyboard, on a phone, with a large model's features."""

# ruff: noqa: F811 (fixtures of another file)

import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chromium_pages import DESK, PHONE, axe, barriers, browser, opened, sync_api, visit, watched  # noqa: F401
from chromium_pages import pytestmark as pytestmark
from report_folders import compared, first_order, gains, swept
from workflow_folder import ROOT

from saesteer.analysis.best_factor import recommended_factors
from saesteer.analysis.tables import OUTCOMES, STEERING
from saesteer.rating.agreement import read_answers
from saesteer.rating.sheet import rated_texts, sheet_html
from saesteer.run import Run
from saesteer.site import feature_table
from saesteer.site.folder import write_report
from saesteer.steps.features import FEATURES
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES

CHUNK = 3
"""Rows of a column of the table in one piece: it has eight."""


def reported(run: Run) -> tuple[Run, Path]:
    return run, write_report(run, run.workflow.data_dir.parent / "report")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_table, "CHUNK", CHUNK)
        return reported(swept(tmp_path_factory.mktemp("swept")))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    return reported(compared(tmp_path_factory.mktemp("compared")))


def routes(sweep: tuple[Run, Path], comparison: tuple[Run, Path]) -> list[tuple[Path, str, str]]:
    """Every kind of page: its report, its route, a selector of what it has to show."""
    features = sweep[0].summary(FEATURES)
    named = features.filter(pl.col("n_examples") > 0).select(pl.format("{}/{}", "layer", "feature")).to_series()
    first, second, swept_, compared_ = *named[:2], sweep[1], comparison[1]
    return [
        (swept_, "", "main table"),
        (swept_, "features", "[role=row][data-at]"),
        (swept_, f"feature/{first}", "mark.most"),
        (swept_, f"feature/{first}", ".curve canvas"),
        (swept_, f"compare/features/{first}/{second}", ".beside > div:nth-child(2) .card"),
        (swept_, "files/features/output_score", "code.chosen"),
        (swept_, "files", "main summary"),
        (swept_, "compare", ".beside > div:nth-child(2) .answer"),
        (swept_, "nothing/here", "main h1"),
        (swept_, "feature/0/99999", "[role=alert]"),
        (compared_, "method/nothing", "[role=alert]"),
        (compared_, "", "main table"),
        (compared_, "methods", "main table"),
        (compared_, "method/diffmean", ".card.chosen"),
        (compared_, "compare/methods", "main h1"),
        (compared_, "compare/methods/diffmean/sae_label", ".beside > div:nth-child(2) button.link"),
    ]


@pytest.mark.parametrize(("size", "scheme"), [(DESK, "light"), pytest.param(PHONE, "dark", marks=pytest.mark.exhaustive)])
def test_every_kind_of_page_shows_what_it_should_and_is_accessible(
    sweep: tuple[Run, Path], comparison: tuple[Run, Path], opened: Callable[..., Any], size: dict[str, int], scheme: str
) -> None:
    page = opened(sweep[1], "", size, scheme)
    for report, route, selector in routes(sweep, comparison):
        visit(page, report, route)
        page.wait_for_selector(selector)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], route
        assert barriers(page) == [], route


def test_pictures_for_the_documentation(sweep: tuple[Run, Path], tmp_path: Path) -> None:
    features = sweep[0].summary(FEATURES)
    layer, feature = features.filter(pl.col("n_examples") > 0).select("layer", "feature").row(0)
    command = [sys.executable, "docs/screenshots.py", str(sweep[1].parent), f"{layer}/{feature}", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = [f"report-{name}.png" for name in ("factors", "feature", "features", "texts")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(path.stat().st_size > 10_000 for path in tmp_path.iterdir())


def test_hostile_texts_are_shown_as_they_are(sweep: tuple[Run, Path], opened: Callable[..., Any]) -> None:
    results, report = sweep
    page, links = opened(report, ""), []
    for row in results.summary(FEATURES).filter(pl.col("n_examples") > 0).rows(named=True):
        visit(page, report, f"feature/{row['layer']}/{row['feature']}")
        page.wait_for_selector(f"h1:text-is('Feature {row['layer']}/{row['feature']}') ~ section")
        text = page.inner_text("main").replace("\u202f", " ")
        shown = [row["explanations"][0], row["top_logit_lens_tokens"][0].replace("▁", " ").strip()]
        assert all("".join(one.split()) in "".join(text.replace("⏎", "").split()) for one in shown)
        assert page.locator("main img, main script, main b").count() == 0
        links += page.eval_on_selector_all("main a", "(all) => all.map((one) => one.protocol)")
    assert set(links) == {"file:", "https:"}


def test_the_table_by_keyboard(sweep: tuple[Run, Path], opened: Callable[..., Any]) -> None:
    results, report = sweep
    expected = first_order(results)
    page = opened(report, "features")
    page.wait_for_selector("[role=row][data-at]")

    def focused() -> str:
        return str(page.evaluate("document.activeElement.querySelector('.id')?.textContent ?? document.activeElement.tagName"))

    page.keyboard.press("Tab")
    for _ in range(40):
        if focused() == expected[0]:
            break
        page.keyboard.press("Tab")
    assert focused() == expected[0]
    for key, place in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", -1), ("Home", 0), ("ArrowDown", 1)):
        page.keyboard.press(key)
        page.wait_for_timeout(50)
        assert focused() == expected[place], key
    page.keyboard.press("Enter")
    page.wait_for_selector(f"h1:text-is('Feature {expected[1]}')")
    page.go_back()
    page.wait_for_selector(f"[role=row][tabindex='0']:has-text('{expected[1]}')")


def test_search_filters_and_order_give_the_rows_that_polars_gives(sweep: tuple[Run, Path], opened: Callable[..., Any]) -> None:
    results, report = sweep
    features = results.summary(FEATURES)
    page = opened(report, "features")
    ids = lambda: page.eval_on_selector_all("[role=row][data-at] .id", "(all) => all.map((one) => one.textContent)")  # noqa: E731
    named = features.with_columns(id=pl.format("{}/{}", "layer", "feature"), lens=pl.col("top_logit_lens_tokens").list.join(" "))
    place = {one: number for number, one in enumerate(first_order(results))}
    ranked = named.with_columns(place=pl.col("id").replace_strict(place)).sort("place")
    examples = results.rows(MAX_ACTIVATING_EXAMPLES, columns=["examples"]).explode("examples", empty_as_null=False)
    texts = examples.select("layer", "feature", pl.col("examples").struct.field("context").list.join("").str.replace_all("▁", " ")).rows()
    words = {f"{layer}/{feature}": text.lower() for layer, feature, text in texts}

    def typed(label: str, text: str) -> None:
        page.get_by_label(label).fill(text)
        page.wait_for_timeout(50)

    label = pl.coalesce("concept", "explanation").fill_null("").str.to_lowercase()
    n_by_examples = 0
    for word in sorted({one for text in words.values() for one in text.split() if one.isalpha() and len(one) > 2}):
        typed("Search labels", word.upper())
        hit = label.str.contains(word, literal=True) | pl.col("lens").str.to_lowercase().str.contains(word, literal=True)
        in_examples = pl.col("id").is_in([one for one, text in words.items() if word in text])
        assert ids() == ranked.filter(hit | in_examples)["id"].to_list(), word
        n_by_examples += ranked.filter(~hit & in_examples).height
    assert n_by_examples > 0
    token = ranked["top_logit_lens_tokens"][0][-1].replace("▁", "")  # the table does not show it
    typed("Search labels", token)
    assert ids()[0] == ranked["id"][0]
    assert page.locator("[role=row][data-at='0'] mark.hit").inner_text() == token
    typed("Search labels", "")
    typed("output score at least", "0.05")
    assert ids() == ranked.filter(pl.col("output_score") >= 0.05)["id"].to_list() != ranked["id"].to_list()
    typed("output score at least", "")
    page.get_by_label("Layer", exact=True).select_option("1")
    page.wait_for_timeout(50)
    assert ids() == ranked.filter(layer=1)["id"].to_list()
    page.get_by_label("Layer", exact=True).select_option("")
    concept = named["concept"].drop_nulls()[0]
    page.get_by_label("Concept", exact=True).select_option(" ".join(concept.split("\n")).replace("\u2028", " ").replace("\u2029", " "))
    page.wait_for_timeout(50)
    assert ids() == ranked.filter(pl.col("concept") == concept)["id"].to_list()
    page.get_by_label("Concept", exact=True).select_option("")
    page.get_by_role("button", name="input score").click()
    page.wait_for_timeout(50)
    assert ids() == named.sort("input_score", "layer", "feature", descending=[True, False, False], nulls_last=True)["id"].to_list()
    typed("Search labels", ranked["id"][2])
    assert ids() == [ranked["id"][2]]


def test_a_page_begins_with_its_answer_and_a_command_to_copy(sweep: tuple[Run, Path], opened: Callable[..., Any]) -> None:
    results, report = sweep
    number = first_order(results)[0]
    layer, feature = map(int, number.split("/"))
    ((_, _, factor, chosen_by),) = (
        recommended_factors(results.summary(STEERING), results.sweep.best_factor).filter(layer=layer, feature=feature).rows()
    )
    page = opened(report, f"feature/{number}")
    page.wait_for_selector(".pair .chosen")
    sentence, below = page.inner_text(".answer"), page.inner_text("main")
    interval = r"[−\d.]+ \[[−\d.]+, [−\d.]+\]"
    told = rf"steer.* towards [^:]*: gain {interval} over unsteered, held-out judge score {interval} of 2, n = 4 prompts; texts stay fluent"
    assert re.search(told, sentence, re.DOTALL | re.IGNORECASE)
    assert f"Recommended: factor {factor}, chosen by {chosen_by}. Held out: each half of the prompts" in below
    assert page.locator(".pair h2").all_inner_texts() == ["unsteered", f"steered, factor {factor}"]
    headings = page.locator("main section h2").all_inner_texts()
    shown = ["What it fires on", "What it writes", "How active", "How hard", "Steered texts"]
    assert [heading.split(":")[0] for heading in headings[: len(shown)]] == shown
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".copy button").click()
    page.wait_for_selector(".copy [role=status]:has-text('Command copied')")
    words = shlex.split(page.evaluate("navigator.clipboard.readText()"))
    assert words[:4] == ["saesteer", "steer", "tiny", number]
    assert words[4] in results.prompts_if_any().values()
    assert len(words) == 5
    page.locator(".turn a[rel=next], .turn a[rel=prev]").first.click()
    sync_api.expect(page.locator("main h1")).not_to_have_text(f"Feature {number}")


def test_scores_of_the_prompts_that_chose_are_not_called_held_out(
    sweep: tuple[Run, Path], comparison: tuple[Run, Path], opened: Callable[..., Any], tmp_path: Path
) -> None:
    number = first_order(sweep[0])[0]
    for (run, _), section, routes in ((sweep, "best_factor", ("", f"feature/{number}")), (comparison, "methods", ("method/diffmean",))):
        settings = getattr(run.experiment, section).model_copy(update={"factor_choice": "same_texts"})
        flattering = replace(run, experiment=run.experiment.model_copy(update={section: settings}))
        report = write_report(flattering, tmp_path / section)
        for route in routes:
            page = opened(report, route)
            page.wait_for_selector("main :text('in-sample')")
            assert not re.search("(?<!Not )held[- ]out", page.inner_text("main"), re.IGNORECASE)


def test_a_sweep_of_clamps_on_a_model_that_answers(sweep: tuple[Run, Path], opened: Callable[..., Any], tmp_path: Path) -> None:
    """The command clamps, too, and an answer stands below its prompt."""
    run, _ = sweep
    clamps = {"sweep": run.sweep.sweep.model_copy(update={"edit": "clamp"})}
    clamped = run.experiment.model_copy(update=clamps | {"model": run.experiment.model.model_copy(update={"prompt_format": "chat"})})
    page = opened(write_report(replace(run, experiment=clamped), tmp_path), f"feature/{first_order(run)[0]}")
    assert re.search(r" --edit clamp --factor [\d.]+$", page.inner_text(".copy code"))
    beginnings = tuple(f"{prompt}\n" for prompt in run.prompts_if_any().values())
    assert all(text.startswith(beginnings) for text in page.locator(".card .text").all_inner_texts())


def test_one_number_of_a_feature_on_every_page(sweep: tuple[Run, Path], opened: Callable[..., Any]) -> None:
    """Overview, table, its own page with both tables, beside another: the same gain and the same held-out score everywhere. Without a judge
    score they are those of GenSuccess@20, net of unsteered texts and as it is."""
    results, report = sweep
    outcomes = results.summary(OUTCOMES).filter(rule=results.sweep.best_factor.rule)
    successes = {f"{row['layer']}/{row['feature']}": (row["net_gen_success_20"], row["gen_success_20"]) for row in outcomes.to_dicts()}
    page, by_gain = opened(report, "features"), gains(results)
    page.wait_for_selector("[role=row][data-at]")
    cells = (
        "(all) => all.map((row) => ['.id', '.gain', '.judge_score', '.gen_success_20'].map((one) => row.querySelector(one).textContent))"
    )
    rows = {name: numbers for name, *numbers in page.eval_on_selector_all("[role=row][data-at]", cells)}
    assert rows.keys() == by_gain.keys()
    told: dict[str, set[str]] = {name: set() for name in rows}

    def said(name: str, text: str) -> None:
        told[name].add(re.search(r"gain \S+ \[.*?\] over unsteered, held-out [^;]*?prompts", text.replace("\n", " "), re.DOTALL)[0])

    for name, (gain, judged, success) in rows.items():
        visit(page, report, f"feature/{name}")
        page.wait_for_selector(f"h1:text-is('Feature {name}') ~ .answer")
        said(name, page.inner_text(".answer"))
        (sentence,) = told[name]
        held_out = page.locator("div[aria-label='held-out outcomes'] tbody tr:has-text('capped') td").all_inner_texts()
        assert [judged, success] == [held_out[-1], held_out[3]]
        assert f"held-out {'GenSuccess@20' if judged == '–' else 'judge score'} {success if judged == '–' else judged} [" in sentence
        assert sentence.startswith(f"gain {held_out[2] if judged == '–' else gain} [")
        if by_gain[name] is not None:
            assert float(gain.replace("−", "-")) == pytest.approx(by_gain[name], abs=5e-3)
        else:
            shown = re.match(r"gain (\S+) \[.*\] over unsteered, held-out GenSuccess@20 (\S+) \[.*\] of 20, n = 4 prompts", sentence)
            assert [float(number.replace("−", "-")) for number in shown.groups()] == pytest.approx(successes[name], abs=0.01)
        visit(page, report, f"compare/features/{name}")
        page.wait_for_selector(".beside .answer")
        said(name, page.inner_text(".beside .answer"))
    visit(page, report, "")
    page.wait_for_selector("article.best")
    best = page.locator("article.best").all_inner_texts()
    assert [re.search(r"\d+/\d+", one)[0] for one in best] == first_order(results)[: len(best)]
    for one in best:
        said(re.search(r"\d+/\d+", one)[0], one)
    assert all(len(sentences) == 1 for sentences in told.values())


def test_suppressed_tokens_and_the_histogram_are_those_of_the_tables(sweep: tuple[Run, Path], opened: Callable[..., Any]) -> None:
    results, report = sweep
    examples = results.rows(MAX_ACTIVATING_EXAMPLES).drop_nulls("max_activation")
    layer, feature, counts = examples.select("layer", "feature", "histogram_counts").row(0)
    lens = results.rows(LOGIT_LENS).filter(layer=layer, feature=feature).row(0, named=True)
    page = opened(report, f"feature/{layer}/{feature}", PHONE)
    page.wait_for_selector(".histogram")
    for place, prefix in enumerate(("", "suppressed_")):
        shown = page.locator(".tokens").nth(place).locator("li").all_inner_texts()
        tokens = [token.replace("▁", "").strip().split("\n")[0] for token in lens[f"{prefix}tokens"]]
        assert len(shown) == len(tokens)
        assert all(text.strip().startswith(token) for text, token in zip(shown[1:-1], tokens[1:-1], strict=True))  # the ends are hostile
        logits = [float(one.replace("−", "-")) for one in page.locator(".tokens").nth(place).locator(".num").all_inner_texts()]
        assert logits == pytest.approx(lens[f"{prefix}logits"], rel=1e-2)
    heights = page.eval_on_selector_all(".columns span", "(all) => all.map((one) => one.getBoundingClientRect().height)")
    scale = [math.log10(1 + count) / math.log10(1 + max(counts)) for count in counts]
    assert [height / max(heights) for height in heights] == pytest.approx(scale, abs=0.01)
    page.locator(".histogram + details summary").click()
    cells = page.locator(".histogram + details td:last-child").all_inner_texts()
    assert [int(cell.replace(",", "")) for cell in cells] == counts


def test_an_address_that_leads_nowhere_says_what_there_is(sweep: tuple[Run, Path], opened: Callable[..., Any]) -> None:
    results, report = sweep
    features = results.summary(FEATURES)
    in_layer = features.filter(layer=1)["feature"].to_list()
    page = opened(report, "feature/1/99999")
    page.wait_for_selector("[role=alert]")
    said = page.inner_text("[role=alert]")
    assert all(f"1/{feature}" in said for feature in in_layer)  # there are fewer than the nearest that are named
    visit(page, report, "feature/7/3")
    page.wait_for_selector("[role=alert]:has-text('has no layer 7')")
    assert page.locator("[role=alert] a").all_inner_texts() == ["0", "1"]
    visit(page, report, "nothing")
    assert page.locator("main li").all_inner_texts() == ["Overview", "Features", "Compare", "Files"]


def test_compare_begins_with_the_two_best_features_of_different_labels(sweep: tuple[Run, Path], opened: Callable[..., Any]) -> None:
    results, report = sweep
    labels = {
        f"{layer}/{feature}": concept for layer, feature, concept in results.summary(FEATURES).select("layer", "feature", "concept").rows()
    }
    ranked = first_order(results)
    second = next(one for one in ranked if labels[one] != labels[ranked[0]])
    page = opened(report, "compare")
    page.wait_for_selector(".beside > div:nth-child(2) .answer")
    assert page.locator(".beside h2:has-text('Feature ')").all_inner_texts() == [f"Feature {ranked[0]}", f"Feature {second}"]


def test_on_a_phone_the_table_keeps_labels_scores_and_factors(sweep: tuple[Run, Path], opened: Callable[..., Any]) -> None:
    page = opened(sweep[1], "features", PHONE)
    page.wait_for_selector("[role=row][data-at]")
    edge = page.locator(".grid").bounding_box()
    for name in ("id", "label", "lens", "gain", "strength"):
        box = page.locator(f"[role=row][data-at='0'] .{name}").bounding_box()
        assert box["width"] > 30, name
        assert edge["x"] <= box["x"], name
        assert box["x"] + box["width"] <= edge["x"] + edge["width"] + 1, name
    texts = page.locator("[role=row][data-at='0'] .label").evaluate("(one) => getComputedStyle(one).whiteSpace")
    assert texts == "normal"


def test_a_number_leads_to_its_column_and_its_file(sweep: tuple[Run, Path], opened: Callable[..., Any]) -> None:
    results, report = sweep
    features = results.summary(FEATURES)
    page = opened(report, "feature/{}/{}".format(*features.select("layer", "feature").row(0)))
    page.locator(".place .num").first.click()
    page.wait_for_selector("code.chosen#column-features-output_score")
    address = page.locator("details[open] li a").first.evaluate("(link) => link.href")
    assert address == (results.data / "tables/features.parquet").as_uri()


def test_texts_are_rated_by_keyboard_and_the_answers_saved(
    comparison: tuple[Run, Path], tmp_path: Path, opened: Callable[..., Any]
) -> None:
    run, sheet = comparison[0], tmp_path / "rate.html"
    sheet.write_text(sheet_html(run, 4, 0), encoding="utf-8")
    page = opened(sheet, "", PHONE)
    texts = json.loads(page.text_content("#sheet"))["texts"]
    assert page.inner_text("#continuation").split() == texts[0][3].split()
    assert axe.Axe().run(page, options={"preload": False}).response["violations"] == []
    # The first text 0 and 2, corrected to 1 and 2; the second skipped after its first question; the third 2 and 0.
    for key in ("1", "3", "ArrowLeft", "ArrowLeft", "2", "3", "3", "ArrowRight", "3", "1"):
        page.keyboard.press(key)
    assert page.inner_text("#progress").startswith("Text 4 of 4, question 1 of 2; 2 rated.")
    page.reload()  # what was answered is kept, and the first text that is not rated is shown
    assert page.inner_text("#progress").startswith("Text 2 of 4, question 1 of 2; 2 rated.")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert page.inner_text("#progress").startswith("End; 2 rated.")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "ratings-methods.json"
    download.value.save_as(tmp_path / "answers.json")
    read = read_answers(tmp_path / "answers.json", "methods", rated_texts(run))
    ids = rated_texts(run).join(read.drop("concept_rating", "fluency_rating"), on=JUDGEMENTS.keys).select("id", *JUDGEMENTS.keys)
    by_id = read.join(ids, on=JUDGEMENTS.keys).select("id", "concept_rating", "fluency_rating").rows()
    assert sorted(by_id) == sorted([(texts[0][0], 1, 2), (texts[1][0], 2, None), (texts[2][0], 2, 0)])
