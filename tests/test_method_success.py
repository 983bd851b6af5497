"""P1's choice of a factor in the comparison of methods: top logit-lens tokens counted text by text, the ratio by hand, and the sweep's
own rule."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from engine_models import WORLD
from hypothesis import given, settings
from hypothesis import strategies as st
from method_rows import BEST_FACTOR, LAYER, method_settings, rows_of, scored
from oracles.method_protocol import Text
from synthetic_tables import lens_rows

from saesteer.analysis.best_factor import Curve, choose_p1
from saesteer.analysis.gen_success import gen_success, with_feature
from saesteer.core.tables import validate
from saesteer.core.texts import as_generations
from saesteer.core.tokens import load_tokens
from saesteer.methods.compare.protocol import Rows
from saesteer.methods.compare.tables import METHOD_HALVES
from saesteer.settings.methods import MethodSettings

TWO = ("p0", "p1")
SETTINGS = method_settings(methods=["unsteered", "diffmean", "sae_label"], factor_choice="first_half")
Outcomes = dict[str, tuple[int, float]]  # factor -> GenSuccess@20, mean_nll


def rows_with(outcomes: Outcomes, method: str = "sae_label") -> Rows:
    """One concept; every text is rated best at the largest factor, so that the score would choose that one."""
    texts: list[Text] = [("unsteered", "sea", "1", prompt, (0, None, 2)) for prompt in TWO]
    ratings = {factor: (min(2, place), None, 2) for place, factor in enumerate(sorted(outcomes, key=float))}
    texts += [(method, "sea", factor, prompt, ratings[factor]) for factor in outcomes for prompt in TWO]
    rows = rows_of(texts)
    own = pl.col("method") == method
    losses = {factor: loss for factor, (_, loss) in outcomes.items()}
    counts = {factor: count for factor, (count, _) in outcomes.items()}
    loss = pl.when(own).then(pl.col("factor").replace_strict(losses, default=None, return_dtype=pl.Float64)).otherwise("mean_nll")
    keys = rows.texts.filter(own).select("layer", "method", "concept_id", "factor", "prefix_id", "sample")
    success = keys.with_columns(gen_success_20=pl.col("factor").replace_strict(counts, return_dtype=pl.UInt16))
    return replace(rows, perplexity=rows.perplexity.with_columns(mean_nll=loss), success=success)


def chosen(rows: Rows, comparison: MethodSettings = SETTINGS) -> str | None:
    tables = scored(rows, TWO, comparison)
    validate(METHOD_HALVES, tables["method_halves"], "test")
    return tables["method_choices"].filter(pl.col("method") != "unsteered")["factor"].item()


def test_by_hand() -> None:
    """At 1: (1/2) / (e^1 / e^3) = 3.7; at 2: (2/2) / (e^2 / e^3) = 2.7; at 4: (2/2) / 1."""
    rows = rows_with({"1": (1, 1.0), "2": (2, 2.0), "4": (2, 3.0)})
    halves = scored(rows, TWO, SETTINGS)["method_halves"].filter(method="sae_label", half=0).sort("factor")
    assert halves["choose_by"].to_list() == pytest.approx([0.5 * np.e**2, np.e, 1.0])
    assert chosen(rows) == "1"
    assert chosen(replace(rows, success=rows.success.clear())) == "4"  # the score would


def test_by_hand_with_the_perplexity_of_whole_texts() -> None:
    """At 1: (1/2) / (12/12), at 2: (2/2) / (4/12), at 4: (2/2) / (6/12), where 12 is the arithmetic mean of two prompts' 4 and 20."""
    rows = rows_with({"1": (1, 1.0), "2": (2, 2.0), "4": (2, 3.0)})
    of_prompts = {"1": (4.0, 20.0), "2": (4.0, 4.0), "4": (6.0, 6.0)}
    whole = [
        np.log(of_prompts[row["factor"]][TWO.index(row["prefix_id"])]) if row["method"] == "sae_label" else 1.0
        for row in rows.perplexity.iter_rows(named=True)
    ]
    rows = replace(rows, perplexity=rows.perplexity.with_columns(whole_text_nll=pl.Series(whole)))
    by_whole = BEST_FACTOR.model_copy(update={"perplexity": "whole_text"})
    comparison = SETTINGS.model_copy(update={"factor_choice": "same_texts"})
    tables = scored(rows, TWO, comparison, by_whole)
    halves = tables["method_halves"].filter(method="sae_label", half=0).sort("factor")
    assert halves["whole_text_perplexity"].to_list() == pytest.approx([12, 4, 6])
    assert halves["choose_by"].to_list() == pytest.approx([0.5, 3.0, 2.0])
    assert tables["method_choices"].filter(method="sae_label")["factor"].item() == "2"
    assert chosen(rows, comparison) == "1"


def test_repetition_and_empty_texts_are_not_chosen_and_do_not_count_as_the_largest() -> None:
    rows = rows_with({"1": (1, 1.0), "2": (3, 1.5), "4": (4, 0.5), "8": (3, np.nan)})
    empty = pl.col("mean_nll").is_nan()
    rows = replace(rows, perplexity=rows.perplexity.with_columns(mean_nll=pl.when(~empty).then("mean_nll")))
    assert chosen(rows) == "2"
    halves = scored(rows, TWO, SETTINGS)["method_halves"].filter(method="sae_label", half=0).sort(pl.col("factor").cast(pl.Float64))
    # (1/3) / e^(1 - 1.5) and (3/3) / 1: the largest are those of factors 1 and 2.
    assert halves["choose_by"].to_list() == [pytest.approx(np.e**0.5 / 3), pytest.approx(1.0), None, None]


@pytest.mark.parametrize("outcomes", [{"1": (0, 1.0), "2": (0, 0.5)}, {"1": (4, 1.0), "2": (5, 0.5)}, {"1": (0, 1.0)}])
def test_without_any_success_and_without_any_allowed_steering_failed(outcomes: Outcomes) -> None:
    """As in the sweep: no factor, and the concept counts with 0; the rated score of its texts is not what the rule looks at."""
    rows = rows_with(outcomes)
    assert chosen(rows) is None
    choices = scored(rows, TWO, SETTINGS)["method_choices"].filter(method="sae_label")
    assert choices.select("score", "abstains", "n").row(0) == (0.0, False, 0)
    assert scored(rows, TWO, SETTINGS)["method_scores"].filter(method="sae_label")["score"].item() == 0.0


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 8)), min_size=2, max_size=6))
@settings(max_examples=60)
def test_the_sweeps_own_rule_chooses_the_same(outcomes: list[tuple[int, float]]) -> None:
    factors = [str(place + 1) for place in range(len(outcomes))]
    curve = Curve(tuple(factors), np.array([float(count) for count, _ in outcomes]), np.array([loss for _, loss in outcomes]))
    assert chosen(rows_with(dict(zip(factors, outcomes, strict=True)))) == choose_p1(curve, BEST_FACTOR.gen_success_limit)


def test_top_logit_lens_tokens_are_counted_for_fits_of_one_feature_only() -> None:
    tokens = load_tokens(WORLD / "model")
    prompts, words = TWO, {"1": " the boat and the sail", "2": " a king", "4": ""}
    texts: list[Text] = [
        (name, "sea", factor, prompt, (0, None, 2))
        for name in ("sae_label", "sae_top_k", "diffmean")
        for factor in words
        for prompt in prompts
    ]
    features = {"sae_label": [7], "sae_top_k": [7, 8], "diffmean": []}
    rows = rows_of(texts, fits={(name, "sea"): {"features": indices} for name, indices in features.items()})
    steered = as_generations(rows.texts.with_columns(text=pl.col("factor").replace_strict(words)))
    (boat_ids,) = tokens.retokenise([words["1"]])
    lens_ids = {7: [boat_ids[1], boat_ids[0], *range(4, 22)], 8: list(range(30, 50))}
    lens = lens_rows(LAYER, lens_ids)
    counted = gen_success(with_feature(steered.sample(fraction=1.0, shuffle=True, seed=1), rows.fits), lens, tokens, "retokenised")
    assert counted.filter(pl.col("gen_success_20").is_null())["reason"].unique().to_list() == ["not steered with one feature"]
    measured = counted.drop_nulls("gen_success_20")
    assert set(measured["method"]) == {"sae_label"}
    assert measured.height == len(words) * len(prompts)
    for row in measured.iter_rows(named=True):
        (ids,) = tokens.retokenise([words[row["factor"]]])
        assert row["gen_success_20"] == sum(one in lens_ids[7] for one in ids), row
    assert measured["gen_success_20"].max() >= 2
