"""Means, intervals and differences of methods against SciPy and by hand; published figures; the report; AxBench's form."""

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
from method_rows import LAYER, PROMPTS, method_settings, method_summaries, rows_of, score_rows, shuffled, synthetic_rows

from saesteer.core.tables import validate
from saesteer.core.uncertainty import RATINGS, mean_interval, of_differences
from saesteer.exchange.comparison import AXBENCH_METHODS, to_axbench
from saesteer.figures.style import LOOKS
from saesteer.methods.compare.means import ELSEWHERE, family_of, method_differences
from saesteer.methods.compare.paper_values import P4, Protocol, compared, our_protocol, read_paper_values
from saesteer.methods.compare.protocol import ProtocolError
from saesteer.methods.compare.tables import METHOD_EQUAL_COST, METHOD_SUMMARIES
from saesteer.settings.methods import MethodSettings, PublishedConcepts
from saesteer.settings.registry import METHODS, method
from saesteer.site.method_report import method_notes, report_markdown
from saesteer.steps.features import FEATURES

PAPER_VALUES = read_paper_values()
NAMES = {value.method for value in PAPER_VALUES} | {"unsteered", "sae_mutual_information"}
SETTINGS = method_settings(methods=[row.name for row in METHODS if row.name in NAMES])
PROTOCOLS = {LAYER: our_protocol(SETTINGS, "data/world/model", LAYER, "oracle", 6)}


@cache
def world() -> dict[str, pl.DataFrame]:
    return method_summaries(synthetic_rows(SETTINGS), PROMPTS, SETTINGS, PROTOCOLS)


def row_of(table: pl.DataFrame, key: str) -> dict[str, object]:
    return table.row(by_predicate=pl.col("method") == key, named=True)


@pytest.mark.slow
def test_every_table_keeps_its_schema_and_no_order_of_rows_matters() -> None:
    few = method_settings(methods=("unsteered", "sae_label", "diffmean", "prompting", "lora", "sae_ts"))
    first, again = (method_summaries(rows, PROMPTS, few, PROTOCOLS) for rows in (synthetic_rows(few), shuffled(synthetic_rows(few), 3)))
    assert set(again) == set(METHOD_SUMMARIES)
    for name, table in METHOD_SUMMARIES.items():
        validate(table, world()[name], name)
        assert first[name].equals(again[name]), name


def test_a_method_of_the_table_by_hand() -> None:
    """Two concepts, two prompts; the second concept abstains and counts with the unsteered 1/2 x (0 + 4/3)."""
    texts = [("unsteered", concept, "1", prompt, (int(prompt == "p1"), None, 2)) for concept in ("a", "b") for prompt in ("p0", "p1")]
    texts += [("sae_label", "a", factor, prompt, (int(factor), None, 2)) for factor in ("1", "2") for prompt in ("p0", "p1")]
    fits = {("sae_label", "a"): {"residual_change": 2.0, "residual_norm": 8.0, "n_texts": 10, "fit_seconds": 3.0, "r2": 0.5}}
    rows = rows_of(texts, [("sae_label", "b")], fits)
    rows = replace(
        rows, fits=rows.fits.with_columns(n_texts=pl.when(pl.col("kind").is_null()).then(20).otherwise("n_texts").cast(pl.UInt32))
    )
    log_odds = pl.col("factor").cast(pl.Float64) + (pl.col("prefix_id") == "p1")
    rows = replace(rows, judgements=rows.judgements.with_columns(concept_log_odds=log_odds))
    settings = method_settings(methods=("unsteered", "sae_label"), confidence=0.9)
    tables = method_summaries(rows, ("p0", "p1"), settings, {LAYER: PROTOCOLS[LAYER]})
    row = row_of(tables["methods"], "sae_label")
    unsteered = (0 + 4 / 3) / 2
    assert row["score"] == pytest.approx((2 + unsteered) / 2)
    assert row["surviving_score"] == 2
    assert [row[name] for name in ("n_concepts", "n", "n_abstaining", "n_surviving")] == [2, 2, 1, 1]
    assert row["surviving_low"] is None
    ends = (row["score_low"], row["score_high"])  # Student's t of two concepts leaves the scale, Gaffke's bound does not
    assert ends == pytest.approx(mean_interval(np.array([2, unsteered]), 0.9, RATINGS))
    assert 0 < ends[0] < ends[1] < 2
    assert (row["n_texts"], row["n_missing"], row["concept_rating"], row["fluency_rating"], row["instruction_rating"]) == (2, 0, 2, 2, None)
    assert row["perplexity"] == pytest.approx(np.exp(1 + 2))
    assert (row["concept_log_odds"], row["concept_log_odds_low"]) == (2.5, None)  # of one concept; that where it abstains has none
    both = row_of(tables["methods"], "unsteered")
    assert (both["concept_log_odds"], both["concept_log_odds_low"], both["concept_log_odds_high"]) == (
        1.5,
        None,
        None,
    )  # no scale, 2 values
    assert (row["median_factor"], row["median_change"], row["median_relative_change"]) == (2, 4.0, 0.5)
    assert (row["n_choices"], row["share_at_smallest"], row["share_at_largest"]) == (2, 0.0, 1.0)
    notes = method_notes(tables["methods"], settings)
    assert (
        "5% of choices are the largest factor, so that larger ones may be better (methods.factors.of_method): SAE, by label (100%)."
        in notes
    )
    assert "smallest factor, so" not in notes
    assert (row["labelled_texts"], row["fit_seconds"], row["r2"]) == (15, (3.0 + 0.5) / 2, 0.5)
    assert row["seconds_per_token"] == pytest.approx(0.2 / 4)
    difference = row_of(tables["method_differences"], "sae_label")
    assert (difference["other"], difference["n"]) == ("unsteered", 2)
    assert difference["mean"] == pytest.approx((2 - unsteered + 0) / 2)
    curve = tables["method_curves"].filter(method="sae_label")
    assert curve["factor"].to_list() == ["1", "2"]
    assert curve["concept_rating"].to_list() == [1, 2]
    assert curve["score"].to_list() == pytest.approx([4 / 3, 2])
    assert (curve["n"].to_list(), curve["n_texts"].to_list(), curve["n_chosen"].to_list()) == ([1, 1], [2, 2], [0, 2])
    assert curve["perplexity"].to_list() == pytest.approx([np.exp(2), np.exp(3)])


def test_what_chose_the_features_and_what_they_are_like_by_hand() -> None:
    """Two concepts; features 3 and 4 are labelled with the first, 5 with another, and 6 is not in the table. Medians over features used."""
    texts = [(key, concept, "1", "p0", (1, None, 2)) for key in ("unsteered", "sae_label", "sae_top_k") for concept in ("a", "b")]
    used = {("sae_label", "a"): [3], ("sae_label", "b"): [5], ("sae_top_k", "a"): [3, 4, 5], ("sae_top_k", "b"): [6]}
    rows = rows_of(texts, fits={key: {"features": features} for key, features in used.items()})
    known = [(3, 0.1, "a", 0.5), (4, 0.2, "a", 0.75), (5, 0.6, "c", 0.9)]
    blank = dict.fromkeys(FEATURES.columns) | {"layer": LAYER}
    features = [blank | dict(zip(("feature", "density", "concept", "concept_share"), values, strict=True)) for values in known]
    rows = replace(rows, features=pl.DataFrame(features, schema=FEATURES.schema))
    settings = method_settings(methods=("unsteered", "sae_label", "sae_top_k"), factor_choice="same_texts")
    table = method_summaries(rows, ("p0",), settings, {LAYER: PROTOCOLS[LAYER]})["methods"]
    of = {key: [row_of(table, key)[name] for name in ("density", "concept_share", "chosen_by", "text_use")] for key in table["method"]}
    assert of == {
        "unsteered": [None, None, "nothing", "none"],
        "sae_label": [pytest.approx(0.35), 0.5, "label", "none"],
        "sae_top_k": [0.2, 0.625, "texts, output score", "choice"],
    }


def test_a_mean_has_the_interval_of_its_scores_and_a_pair_that_of_its_differences() -> None:
    settings = method_settings()
    rows = synthetic_rows(method_settings(methods=("unsteered", "diffmean", "sae_label")), 30)
    tables = method_summaries(rows, PROMPTS, settings, PROTOCOLS)
    own = tables["method_scores"].filter(method="sae_label")
    for prefix, values in (("score", own["score"]), ("surviving", own.filter(~pl.col("abstains"))["score"])):
        row = row_of(tables["methods"], "sae_label")
        assert row["score" if prefix == "score" else "surviving_score"] == pytest.approx(values.mean())
        ends = (row[f"{prefix}_low"], row[f"{prefix}_high"])
        assert ends == pytest.approx(mean_interval(values.to_numpy(), 0.95, RATINGS))
    a, b = (tables["method_scores"].filter(method=key).sort("concept_id")["score"].to_numpy() for key in ("diffmean", "unsteered"))
    pair = tables["method_differences"].filter(method="diffmean", other="unsteered").row(0, named=True)
    assert (pair["low"], pair["high"]) == pytest.approx(mean_interval(a - b, 0.95, of_differences(RATINGS)))


def test_pairs_are_paired_and_missing_concepts_left_out() -> None:
    """b is a less 1, whatever the concept; c has one concept less; d has none."""
    a = [1.0, 5.0, 9.0, 30.0]
    scores = score_rows({"lat": a, "pca": [x - 1 for x in a], "probe": [*a[:3], None], "ssv": [None] * 4})
    differences = method_differences(scores, SETTINGS)
    assert differences.select("method", "other").rows() == [
        ("lat", "pca"), ("lat", "probe"), ("lat", "ssv"), ("pca", "probe"), ("pca", "ssv"), ("probe", "ssv"),
    ]  # fmt: skip
    assert differences["n"].to_list() == [4, 3, 0, 3, 0, 0]
    assert differences["mean"].to_list() == [1, 0, None, -1, None, None]
    sure = differences.row(0, named=True)
    own = mean_interval(np.ones(4), 0.95, of_differences(RATINGS))  # what the scale allows: four equal differences have no spread
    assert [sure[name] for name in ("low", "high")] == pytest.approx(own)
    assert sure["p_all_pairs"] == 2 * 0.5**4 * 6  # four of four concepts, six pairs
    assert differences["p_all_pairs"].null_count() == differences["low"].null_count() == 3


def test_families_cover_the_registry() -> None:
    families = {row.name: family_of(row) for row in METHODS}
    assert {*families.values(), ELSEWHERE} == {*LOOKS}
    assert ELSEWHERE not in families.values()
    known = {"unsteered": "Controls", "prompting": "Prompt", "lora": "Trained weights", "diffmean": "Vectors", "sae_auroc": "SAE features"}
    assert {name: families[name] for name in (*known, "fgaa")} == known | {"fgaa": "Effects of steering"}


PUBLISHED = (
    ("reft_r1", "gemma-2-9b-it", 31, "P4", "", 0.401),
    ("sft", "gemma-2-2b-it", 20, "P4", "", 0.714),
    ("sae_label", "gemma-2-9b-it", 20, "P4", "", 0.191),
    ("sae_label", "gemma-2-2b-it", 10, "issue 149", "", 0.329),
    ("sae_label_output_score", "gemma-2-9b-it", 20, "", "at least .1", 0.546),
    ("sae_label", "gemma-2-9b-it", 31, "", "unfiltered", 0.387),
    ("sae_ts", "gemma-2-9b", 12, "", "", 0.3376),
    ("sae_label_delta_confidence", "qwen-2.5-3b", None, "", "", 0.399),
    ("sae_label_output_score", "gemma-2-9b", None, "", "", 0.255),
)
"""A sample of each table, typed again from the papers: method, model, layer, part of the source, part of the place, value."""


def test_published_figures() -> None:
    for name, model, layer, source, place, value in PUBLISHED:
        figures = [figure for figure in PAPER_VALUES if figure.method == name and source in figure.source and place in figure.place]
        assert [figure.value for figure in figures if (figure.protocol.model, figure.protocol.layer) == (model, layer)] == [value]
    assert not [value for value in PAPER_VALUES if method(value.method).paper.startswith("alternative")]
    tasks = [value for value in PAPER_VALUES if value.task]
    assert len(tasks) == 9
    assert np.mean([value.value for value in tasks]) == pytest.approx(0.3600, abs=5e-5)  # P2's own average
    assert {value.method for value in PAPER_VALUES} <= {row.name for row in METHODS}
    for name, mean in {"prompting": 0.894, "loreft": 0.741, "lora": 0.615, "reft_r1": 0.543, "diffmean": 0.239, "sae_label": 0.165}.items():
        hook_points = [value.value for value in PAPER_VALUES if value.method == name and value.source == P4]
        assert np.mean(hook_points) == pytest.approx(mean, abs=6e-4)  # P4's own column of means


def test_protocols_are_compared_fact_by_fact() -> None:
    diffmean = [figure.protocol for figure in PAPER_VALUES if (figure.method, figure.source) == ("diffmean", P4)]
    (theirs,) = (protocol for protocol in diffmean if protocol.layer == 31)
    assert compared(theirs, theirs) == ([], [])
    concepts = PublishedConcepts(kind="published", concepts="axbench/concept500_9b_l31", texts="x")
    data = {"concepts": concepts, "prompts": None, "published_prompts": "alpaca_eval/instructions", "max_new_tokens": 128, "stop": None}
    choices = {"factor_choice": "first_half", "learning_rates": [], "training_tokens": "all", "blank_texts": "rated"}
    close = method_settings(**data, **choices)
    ours = our_protocol(close, "google/gemma-2-9b-it", 31, "openai/gpt-4o-mini", 500)
    assert compared(ours, theirs) == (["prompts"], [])
    tuned = our_protocol(method_settings(learning_rates=[1e-3], training_tokens="output"), "m", 31, "j", 500)
    assert compared(replace(tuned, prompts=theirs.prompts), theirs)[0][-3:] == ["learning_rates", "training_tokens", "blank_texts"]
    assert compared(replace(ours, temperature=0.7), replace(theirs, judge=None)) == (["temperature", "prompts"], ["judge"])


@pytest.mark.slow
def test_ours_stand_beside_theirs() -> None:
    published, methods = world()["method_published"], world()["methods"]
    filtered = published.filter(method="sae_label_output_score")
    assert set(filtered["averaged"]) == {"surviving"}
    assert filtered["ours"].unique().to_list() == [row_of(methods, "sae_label_output_score")["surviving_score"]]
    diffmean = published.filter(method="diffmean")
    assert diffmean["ours"].unique().to_list() == [row_of(methods, "diffmean")["score"]]
    assert (diffmean["ours"] - diffmean["theirs"]).to_list() == diffmean["difference"].to_list()
    p2 = published.filter(pl.col("source").str.starts_with("P2"))
    assert p2.height == 8 + 9
    assert p2["difference"].null_count() == p2.height  # another scale
    assert p2.filter(pl.col("task") != "")["ours"].null_count() == 9  # no concept of ours is a topic here
    assert not published["matches"].any()
    assert {"model", "judge"} <= set(diffmean["differs"][0])
    assert "judge" in published.filter(pl.col("source").str.starts_with("P5"))["not_stated"][0]
    product = method_settings(score="product_of_means", methods=("unsteered", "sae_ts"))
    rows = synthetic_rows(product)
    named = rows.concepts.with_columns(concept=pl.Series(["Anger", *"bcdef"]))
    tables = method_summaries(replace(rows, concepts=named), PROMPTS, product, {LAYER: our_protocol(product, "m", LAYER, "j", 6)})
    anger = tables["method_published"].filter(task="anger").row(0, named=True)
    own = tables["method_scores"].filter(method="sae_ts", concept="Anger")["score"].item()
    assert (anger["ours"], anger["averaged"]) == (own, "anger")
    assert anger["difference"] == pytest.approx(own - 0.2424)


def sections(text: str) -> dict[str, list[str]]:
    """Heading -> its lines."""
    by_heading: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            by_heading[line.lstrip("# ")] = lines = []
        elif line:
            lines.append(line)
    return by_heading


def report(settings: MethodSettings = SETTINGS, protocols: dict[int, Protocol] = PROTOCOLS, **changes: pl.DataFrame) -> str:
    tables = world() | changes
    return report_markdown(tables["methods"], tables["method_differences"], tables["method_published"], protocols, settings)


def test_the_report_says_what_the_tables_say() -> None:
    text = report()
    parts = sections(text)
    table = [line.split(" | ") for line in parts[f"Layer {LAYER}"] if line.startswith("|")]
    assert len(table) == 2 + len(SETTINGS.methods)
    assert [row[0].lstrip("| ") for row in table[2:]] == world()["methods"].sort("score", descending=True)["title"].to_list()
    mutual = row_of(world()["methods"], "sae_mutual_information")
    (line,) = (line for line in parts[f"Layer {LAYER}"] if line.startswith(f"| {mutual['title']} |"))
    rank = f"{mutual['rank']:g} [{mutual['rank_low']:g}, {mutual['rank_high']:g}]"
    score = f"{mutual['score']:.3f} [{mutual['score_low']:.3f}, {mutual['score_high']:.3f}] (n = 6)"
    assert f"| {score} | {rank} | {mutual['n_abstaining']} of 6 |" in line
    assert f"| {mutual['surviving_score']:.3f} [" in line
    assert f"| {mutual['n_missing']} of {mutual['n_texts']} |" in line
    assert "a base model" in text
    assert "None" not in text
    assert "nan" not in text
    for part in (*parts.values(), parts["Published figures beside ours"]):
        widths = {line.count(" | ") for line in part if line.startswith("|") and "---" not in line}
        assert len(widths) <= (2 if part is parts["Published figures beside ours"] else 1)


def test_the_report_counts_pairs_and_turns_them_round() -> None:
    few = method_settings(methods=("unsteered", "sae_label", "diffmean", "prompting", "lora", "sae_ts"))
    tables = method_summaries(synthetic_rows(few, 14), PROMPTS, few, PROTOCOLS)
    differences = tables["method_differences"]
    lines = sections(report(few, **tables))["Differences between methods"]
    plain = differences.filter((pl.col("low") > 0) | (pl.col("high") < 0)).height
    together = differences.filter(pl.col("p_all_pairs") < 0.05).height
    assert f"{differences.height} pairs are compared" in lines[0]
    assert f"of {plain} of them leaves out 0" in lines[0]
    assert f"Of all pairs together {together} are told apart" in lines[0]
    assert 0 < together < plain
    best = tables["methods"].sort("score", descending=True).row(0, named=True)
    (line,) = (line for line in lines if line.startswith("| Unsteered |"))
    keys = sorted((best["method"], "unsteered"))
    pair = differences.filter(method=keys[0], other=keys[1]).row(0, named=True)
    sign = 1 if keys[0] == "unsteered" else -1
    assert f"{sign * pair['mean']:.3f} [{min(sign * pair['low'], sign * pair['high']):.3f}, ".replace("-", "−") in line
    assert line.startswith("| Unsteered | – | – |")
    ((rate, low, high),) = differences.filter(method="sae_label", other="unsteered").select("^win_rate.*$").rows()
    assert line.endswith(f"| {1 - rate:.3f} [{1 - high:.3f}, {1 - low:.3f}] |")
    (labelled,) = (line for line in lines if line.startswith("| SAE, by label |"))
    assert labelled.endswith("| – |")


def test_the_report_of_instructions_of_survivors_and_of_concepts_without_a_score() -> None:
    rated = world()["methods"].with_columns(instruction_rating=pl.lit(1.5))
    assert "a base model" not in report(methods=rated)
    surviving = method_settings(averaged="surviving")
    order = world()["methods"].sort("surviving_score", descending=True)["title"].to_list()
    lines = sections(report(surviving))[f"Layer {LAYER}"]
    assert [line.split(" | ")[0].lstrip("| ") for line in lines if line.startswith("|")][2:] == order
    assert "surviving concepts only" in lines[-1]
    short = world()["methods"].with_columns(n=pl.when(method="lat").then(4).otherwise("n").cast(pl.UInt32))
    assert "left out of the means: LAT (2)." in report(methods=short)


def test_only_figures_of_our_model_are_shown_where_there_are_some() -> None:
    ours = our_protocol(SETTINGS, "google/gemma-2-2b-it", 10, "gpt-4o-mini", 6)
    text = report(protocols={LAYER: ours})
    lines = [line for line in sections(text)["Published figures beside ours"] if "table of steering scores |" in line]
    assert lines
    assert all("gemma-2-2b-it" in line for line in lines)
    assert any("gemma-2-9b-it" in line for line in sections(report())["Published figures beside ours"])


def test_axbench_form() -> None:
    texts = [("unsteered", concept, "1", prompt, (0, 1, 2)) for concept in ("b", "a") for prompt in ("p0", "p1")]
    texts += [("diffmean", "a", factor, prompt, (2, 1, 2)) for factor in ("0.5", "2") for prompt in ("p0", "p1", "p1")]
    texts += [("prompting", "a", "2", "p0", (None, 1, 2))]
    rows = rows_of(texts, [("diffmean", "b")])
    prompts = {"p1": "Tell me.", "p0": "Why?"}
    wide = to_axbench(rows, ("b", "a"), prompts, LAYER, "AlpacaEval")
    assert wide.select("concept_id", "input_concept", "input_id", "factor").rows() == [
        (0, "b", 0, 1.0), (0, "b", 1, 1.0),
        (1, "a", 0, 0.5), (1, "a", 0, 1.0), (1, "a", 0, 2.0),
        (1, "a", 1, 0.5), (1, "a", 1, 1.0), (1, "a", 1, 2.0),
        (1, "a", 2, 0.5), (1, "a", 2, 2.0),
    ]  # fmt: skip
    row = wide.filter(concept_id=1, input_id=2, factor=2.0).row(0, named=True)
    assert (row["original_prompt"], row["dataset_name"], row["sae_id"]) == ("Tell me.", "AlpacaEval", None)
    assert row["DiffMean_steered_generation"] == "diffmean 2"
    assert (row["DiffMean_perplexity"], row["DiffMean_strength"]) == pytest.approx((np.exp(3), 6.0))
    ratings = [row[f"DiffMean_LMJudgeEvaluator_{name}_ratings"] for name in ("relevance_concept", "relevance_instruction", "fluency")]
    assert ratings == [2.0, 1.0, 2.0]
    assert row["DiffMean_LMJudgeEvaluator"] == pytest.approx(1.5)
    assert row["unsteered_steered_generation"] is None  # its grid has no such factor
    prompted = wide.filter(concept_id=1, input_id=1, factor=2.0).row(0, named=True)
    assert (prompted["PromptSteering_LMJudgeEvaluator"], prompted["PromptSteering_strength"]) == (None, None)
    assert to_axbench(shuffled(rows, 2), ("b", "a"), prompts, LAYER, "AlpacaEval").equals(wide)
    assert set(AXBENCH_METHODS) <= {row.name for row in METHODS}
    for concepts, named in ((("b",), prompts), (("b", "a"), {"p1": "Tell me."})):
        with pytest.raises(ProtocolError, match="not among the 1 given"):
            to_axbench(rows, concepts, named, LAYER, "x")


def test_fits_of_two_layers_are_kept_apart() -> None:
    settings = method_settings(methods=("unsteered", "diffmean"))
    rows = synthetic_rows(settings, 3)
    at_9 = {name: getattr(rows, name).with_columns(layer=pl.lit(9, pl.UInt16)) for name in ("texts", "perplexity", "judgements", "fits")}
    at_9["judgements"] = at_9["judgements"].with_columns(judge_score=pl.when(method="diffmean").then(2.0).otherwise("judge_score"))
    both = replace(rows, **{name: pl.concat([getattr(rows, name), table]) for name, table in at_9.items()})
    protocols = PROTOCOLS | {9: replace(PROTOCOLS[LAYER], layer=9)}
    tables, alone = method_summaries(both, PROMPTS, settings, protocols), method_summaries(rows, PROMPTS, settings, PROTOCOLS)
    for name in METHOD_SUMMARIES:
        assert tables[name].filter(layer=LAYER).equals(alone[name]), name
    assert tables["methods"].filter(layer=9, method="diffmean")["score"].item() == 2.0
    text = report(settings, protocols, **tables)
    assert [name for name in sections(text) if name.startswith("Layer")] == ["Layer 5", "Layer 9"]


def test_the_report_has_scores_at_equal_cost_where_there_are_some() -> None:
    tables = world()
    rows = [
        {"layer": LAYER, "method": method, "limit": limit, "title": title, "n_concepts": 6, "n": 6, "score": 0.5 + limit}
        | {"score_low": 0.25, "score_high": 1.0, "share_unsteered": limit, "rank_correlation": 0.75, "confidence": 0.95}
        for method, title in tables["methods"].select("method", "title").iter_rows()
        for limit in (0.0, 0.5)
    ]
    equal_cost = pl.DataFrame([dict.fromkeys(METHOD_EQUAL_COST.columns) | row for row in rows], schema=METHOD_EQUAL_COST.schema)
    compared = [tables[name] for name in ("methods", "method_differences", "method_published")]
    text = report_markdown(*compared, PROTOCOLS, SETTINGS, equal_cost)
    best = tables["methods"].sort("score", "method", descending=[True, False]).row(0, named=True)
    _, section = text.split("### At equal cost")
    assert section.index(best["title"]) < section.index("Unsteered")
    assert "0.500 [0.250, 1.000] | 1.000 [0.250, 1.000], 50% unsteered |" in section
    assert "over methods: 0 nats: 0.750; 0.5 nats: 0.750." in section
    assert "At equal cost" not in report_markdown(*compared, PROTOCOLS, SETTINGS)
