"""Max-activating examples, concepts, input score, GenSuccess, ratings and the summary tables, against slow versions and hand-made cases."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import max_activating_examples as oracle
from polars.testing import assert_frame_equal
from synthetic_tables import lens_rows
from tokenizers import Tokenizer, models, pre_tokenizers

from saesteer.analysis.concepts import clear_concepts, with_concept
from saesteer.analysis.gen_success import gen_success, with_feature
from saesteer.analysis.input_score import input_scores
from saesteer.analysis.max_activating_examples import max_activating_examples
from saesteer.analysis.summaries import steering_table
from saesteer.analysis.tables import STEERING
from saesteer.analysis.words_at_maxima import example_concepts
from saesteer.core.tables import validate
from saesteer.core.texts import FEATURE_TEXT, of_features
from saesteer.core.tokens import TextTokens
from saesteer.steps.activations import ACTIVATIONS
from saesteer.steps.concepts import CONCEPTS
from saesteer.steps.fits import FITS
from saesteer.steps.gen_success import GEN_SUCCESS
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.input_score import INPUT_SCORE
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.world.judges import WorldJudge, oracle_as_judge
from saesteer.world.oracle_judge import Oracle, Thresholds
from saesteer.world.rating import rate, ratings_outside

WORDS = ["<unk>", "▁sea", "▁ship", "▁cook", "▁salt", "▁and", "."]
LAYER = 3


def tokens_of(words: list[str], *special: str) -> TextTokens:
    """A word-level tokenizer that writes spaces as ▁."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.add_special_tokens([*special])
    return TextTokens(tokenizer)


@pytest.fixture(scope="module")
def tokens() -> TextTokens:
    return tokens_of(WORDS)


def corpus(seed: int, n_texts: int = 12, n_features: int = 5) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, list[list[float]]]]:
    """(ACTIVATIONS rows, texts, dense codes) of random texts; values come from a small set, so that ties occur."""
    numbers = np.random.default_rng(seed)
    dense, rows, texts = {}, [], []
    for n in range(n_texts):
        length = int(numbers.integers(3, 9))
        codes = numbers.choice([0.0, 0.0, 0.5, 1.0, 2.0], size=(length, n_features))
        codes[0] = 0
        codes[:, -1] = 0  # the last feature is dead
        position, feature = np.nonzero(codes)
        text_id = f"{n:016x}"
        dense[text_id] = codes.tolist()
        values = codes[position, feature].tolist()
        rows.append((LAYER, text_id, length, length - 1, position.tolist(), feature.tolist(), values))
        topics = [255, *numbers.integers(0, 3, size=length - 1).tolist()]
        texts.append((text_id, [0, *numbers.integers(1, len(WORDS), size=length - 1).tolist()], topics))
    activations = pl.DataFrame(rows, schema=ACTIVATIONS.schema, orient="row")
    schema = {"text_id": pl.String, "token_ids": pl.List(pl.UInt16), "token_topics": pl.List(pl.UInt8)}
    return activations, pl.DataFrame(texts, schema=schema, orient="row"), dense


@pytest.mark.parametrize("seed", range(4))
def test_examples_are_the_texts_with_the_largest_maxima(tokens: TextTokens, seed: int) -> None:
    activations, texts, dense = corpus(seed)
    rows = validate(MAX_ACTIVATING_EXAMPLES, max_activating_examples(activations, texts, [0, 2, 3, 4], 5, tokens), "test")
    ids = dict(texts.select("text_id", "token_ids").iter_rows())
    n_tokens = sum(len(codes) - 1 for codes in dense.values())
    for row in rows.iter_rows(named=True):
        feature = row["feature"]
        expected = oracle.max_activating_examples(dense, feature, 5)
        assert [(r["text_id"], r["token_index"], r["max_value"]) for r in row["examples"]] == expected
        assert [r["rank"] for r in row["examples"]] == list(range(len(expected)))
        assert [r["token"] for r in row["examples"]] == [WORDS[ids[text][position]] for text, position, _ in expected]
        assert row["density"] == sum(code[feature] > 0 for codes in dense.values() for code in codes[1:]) / n_tokens
        assert row["n_examples"] == len(expected)
        assert row["max_activation"] == (expected[0][2] if expected else None)


@pytest.mark.parametrize("seed", range(4))
def test_the_histogram_counts_the_tokens_in_twenty_bins_up_to_the_largest_activation(tokens: TextTokens, seed: int) -> None:
    """Of values on the edges of bins, and of any."""
    activations, texts, _ = corpus(seed)
    any_values = np.random.default_rng(seed).gamma(1, 3, sum(activations["value"].list.len())).astype(np.float32)
    any_activations = activations.with_columns(value=pl.Series(np.split(any_values, activations["value"].list.len().cum_sum()[:-1])))
    for rows in (activations, any_activations.cast(pl.Schema(ACTIVATIONS.schema))):
        found = max_activating_examples(rows, texts, [0, 1, 2, 3, 4], 5, tokens)
        long = rows.explode("token_index", "feature", "value")
        for feature, middles, counts in found.select("feature", "histogram_activations", "histogram_counts").rows():
            values = long.filter(feature=feature)["value"].to_list()
            if not values:
                assert (feature, middles, counts) == (4, None, None)
                continue
            expected = oracle.histogram(values, 20)
            assert counts == [count for _, count in expected]
            assert sum(counts) == len(values)
            assert middles == pytest.approx([middle for middle, _ in expected], rel=1e-6)


def test_where_no_token_counts_there_is_no_density(tokens: TextTokens) -> None:
    activations = pl.DataFrame([(LAYER, "0" * 16, 2, 0, [], [], [])], schema=ACTIVATIONS.schema, orient="row")
    texts = pl.DataFrame({"text_id": ["0" * 16], "token_ids": [[1, 2]]})
    rows = validate(MAX_ACTIVATING_EXAMPLES, max_activating_examples(activations, texts, [0, 1], 5, tokens), "test")
    assert rows["density"].to_list() == [None, None]


def test_a_feature_alone_gets_the_row_it_gets_among_others(tokens: TextTokens) -> None:
    activations, texts, _ = corpus(7)
    together = max_activating_examples(activations, texts, [0, 1, 2, 3, 4], 5, tokens)
    for feature in range(5):
        assert_frame_equal(
            max_activating_examples(activations, texts, [feature], 5, tokens), together.filter(feature=feature), check_exact=True
        )
    shuffled = activations.sample(fraction=1, shuffle=True, seed=1)
    assert_frame_equal(max_activating_examples(shuffled, texts, [0, 1, 2, 3, 4], 5, tokens), together, check_exact=True)


@pytest.mark.parametrize("seed", range(4))
def test_concept_is_the_topic_of_highest_lift(tokens: TextTokens, seed: int) -> None:
    activations, texts, dense = corpus(seed)
    examples = max_activating_examples(activations, texts, [0, 1, 4], 5, tokens)
    rows = validate(CONCEPTS, clear_concepts(examples, texts, ["weather", "sea", "cooking"], 0.5), "test")
    labels = dict(texts.select("text_id", "token_topics").iter_rows())
    labelled = [topic for topics in labels.values() for topic in topics if topic != 255]
    for row in rows.filter(pl.col("feature") != 4).iter_rows(named=True):
        at = [labels[text][position] for text, position, _ in oracle.max_activating_examples(dense, row["feature"], 5)]
        topic, share, lift = oracle.concept(at, labelled, 0.5)
        assert row["concept"] == (None if topic is None else ["weather", "sea", "cooking"][topic])
        assert row["concept_share"] == pytest.approx(share, abs=1e-12)
        assert row["lift"] == pytest.approx(lift, rel=1e-12)
        assert (row["reason"] is None) == (topic is not None)
    assert rows.filter(feature=4)["reason"].to_list() == ["no max-activating examples"]


def test_a_topic_of_few_texts_does_not_hide_a_clear_one() -> None:
    # Topic 0 has eight of nine labelled tokens: its lift is below the other's, whose single example is not enough.
    texts = pl.DataFrame(
        {"text_id": ["a", "b"], "token_topics": [[0] * 8, [1]]}, schema={"text_id": pl.String, "token_topics": pl.List(pl.UInt8)}
    )
    at = [{"text_id": "a", "token_index": place} for place in range(3)] + [{"text_id": "b", "token_index": 0}]
    example = pl.Struct({"text_id": pl.String, "token_index": pl.UInt16})
    schema = {"layer": pl.UInt16, "feature": pl.UInt32, "n_examples": pl.UInt32, "examples": pl.List(example)}
    examples = pl.DataFrame([{"layer": LAYER, "feature": 0, "n_examples": 4, "examples": at}], schema=schema)
    (row,) = clear_concepts(examples, texts, ["sea", "cooking"], 0.5).iter_rows(named=True)
    assert (row["concept"], row["concept_share"], row["reason"]) == ("sea", 0.75, None)
    (row,) = clear_concepts(examples, texts, ["sea", "cooking"], 0.8).iter_rows(named=True)
    assert (row["concept"], row["concept_share"], row["lift"]) == (None, 0.25, pytest.approx(0.25 * 9))


def test_a_feature_that_stands_for_its_examples_is_named_by_their_word() -> None:
    def example(context: list[str], at: int) -> dict[str, object]:
        return {"text_id": "a", "token_index": at, "token": context[at], "context": context}

    of_ships = [example(["▁the", "▁sail", "or"], 2), example(["▁a", "▁sail", "or", "."], 1), example(["▁the", "▁boat"], 1)]
    of_stops = [example(["▁the", "▁sea", "."], 2)]
    examples = pl.DataFrame(
        {"layer": LAYER, "feature": [3, 4, 5], "n_examples": [3, 1, 0], "examples": [of_ships, of_stops, []]},
        schema={
            "layer": pl.UInt16,
            "feature": pl.UInt32,
            "n_examples": pl.UInt32,
            "examples": pl.List(
                pl.Struct({"text_id": pl.String, "token_index": pl.UInt16, "token": pl.String, "context": pl.List(pl.String)})
            ),
        },
    )
    rows = validate(CONCEPTS, example_concepts(examples), "test")
    assert rows["concept"].to_list() == ["sailor", None, None]
    assert rows["reason"].to_list() == [None, *["its max-activating examples have their maxima in no word"] * 2]


@pytest.mark.parametrize("convention", ["retokenised", "ids"])
def test_input_score_is_the_share_of_examples_on_top_logit_lens_tokens(tokens: TextTokens, convention: str) -> None:
    activations, texts, dense = corpus(2)
    examples = max_activating_examples(activations, texts, [0, 1, 4], 100, tokens)
    lens = lens_rows(LAYER, {0: [1, 3], 1: [2], 4: [1]})
    rows = validate(INPUT_SCORE, input_scores(examples, lens, tokens, convention, 4), "test")
    ids = dict(texts.select("text_id", "token_ids").iter_rows())
    for feature, lens_ids in ((0, [1, 3]), (1, [2])):
        at = [ids[text][position] for text, position, _ in oracle.max_activating_examples(dense, feature, 100)]
        assert rows.filter(feature=feature)["input_score"][0] == pytest.approx(oracle.input_score(at, lens_ids, 4), abs=1e-12)
    assert rows.filter(feature=4).row(0, named=True)["reason"] == "fewer than 4 max-activating examples"
    n_examples = rows.filter(feature=0)["n_examples"][0]
    for min_examples, is_scored in ((n_examples, True), (n_examples + 1, False)):
        again = input_scores(examples, lens, tokens, convention, min_examples).filter(feature=0)
        assert again["input_score"].is_not_null().to_list() == [is_scored]
    assert rows.filter(feature=4)["input_score"][0] is None


@pytest.mark.parametrize(("token", "lens_id", "score"), [("_name", 1, 1.0), ("_name", 2, 0.0), ("▁name", 2, 1.0), ("▁name", 1, 0.0)])
def test_an_underscore_is_no_space_and_the_mark_of_a_space_is_one(token: str, lens_id: int, score: float) -> None:
    """P1's program, which puts a space for "_", would find " name" (2) in the first two cases."""
    example = {"rank": 0, "text_id": "0", "token_index": 1, "token": token, "token_id": None, "max_value": 1.0, "context": [token]}
    schema = {name: MAX_ACTIVATING_EXAMPLES.schema[name] for name in ("layer", "feature", "examples")}
    examples = pl.DataFrame({"layer": [LAYER], "feature": [0], "examples": [[example]]}, schema=schema)
    lens = lens_rows(LAYER, {0: [lens_id]})
    tokens = tokens_of(["<unk>", "_name", "▁name"])
    assert input_scores(examples, lens, tokens, "retokenised", 1)["input_score"].to_list() == [score]


@pytest.mark.parametrize("convention", ["retokenised", "ids"])
def test_an_example_at_a_special_token_is_left_out_of_the_input_score(convention: str) -> None:
    """As Neuronpedia's can be: of ▁sea (a top logit-lens token), ▁cook and <bos>, one of two counts."""
    named = [("▁sea", 1), ("<bos>", len(WORDS)), ("▁cook", 3)]
    fields = {"token_index": 1, "value": 1.0, "max_value": 1.0, "context": []}
    examples = [fields | {"rank": n, "text_id": str(n), "token": token, "token_id": number} for n, (token, number) in enumerate(named)]
    schema = {name: MAX_ACTIVATING_EXAMPLES.schema[name] for name in ("layer", "feature", "examples")}
    frame = pl.DataFrame({"layer": [LAYER], "feature": [1], "examples": [examples]}, schema_overrides=schema)
    lens = lens_rows(LAYER, {1: [1, len(WORDS)]})
    row = input_scores(frame, lens, tokens_of(WORDS, "<bos>"), convention, 1).row(0, named=True)
    assert (row["input_score"], row["n_examples"]) == (1 / 2, 2)


def generations(texts: list[str]) -> pl.DataFrame:
    rows = [(LAYER, "feature", "1", "2", f"{n:016x}", 0, [], text, 0, True, None, None) for n, text in enumerate(texts)]
    return pl.DataFrame(rows, schema=GENERATIONS.schema, orient="row")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(1, 6), max_size=8), min_size=1, max_size=6), st.permutations(list(range(1, 7))))
def test_gen_success_counts_top_logit_lens_tokens(tokens: TextTokens, generated: list[list[int]], lens_ids: list[int]) -> None:
    lens = lens_rows(LAYER, {1: lens_ids})
    texts = ["".join(WORDS[token] for token in ids).replace("▁", " ") for ids in generated]
    steered = with_feature(generations(texts), pl.DataFrame(schema=FITS.schema))
    rows = validate(GEN_SUCCESS, gen_success(steered, lens, tokens, "retokenised"), "test")
    retokenised = tokens.retokenise(texts)
    for k in (1, 5, 20):
        assert rows[f"gen_success_{k}"].to_list() == [oracle.gen_success(ids, lens_ids, k) for ids in retokenised]
    assert (rows["gen_success_1"] <= rows["gen_success_5"]).all()
    assert (rows["gen_success_5"] <= rows["gen_success_20"]).all()


def two_topics(tokens: TextTokens) -> WorldJudge:
    """Topics sea (▁sea, ▁ship) and cooking (▁cook, ▁salt); the other words say nothing."""
    likelihood = np.full((2, len(WORDS)), 0.1, dtype=np.float32)
    likelihood[0, 1:3] = likelihood[1, 3:5] = 0.24
    likelihood[0, 3:5] = likelihood[1, 1:3] = 0.01
    pairs = np.zeros((len(WORDS), len(WORDS)), dtype=np.float32)
    cuts = Thresholds((0.0, 4.0), 8.0, (0.0, 1.0), -1.0, 0.5, 0.1, 0.3, least_on_topic=1, concept_shares=(0.1, 0.8))
    return oracle_as_judge(Oracle(np.log(likelihood), np.log(np.full(2, 0.5, dtype=np.float32)), pairs, cuts), tokens)


def test_ratings_and_what_cannot_be_rated(tokens: TextTokens) -> None:
    """By hand: concept 2 and fluency 1 -> 2*2*1/3 = 4/3; concept 1 (half of the content) and 2 -> 4/3; either 0 -> 0; missing -> null."""
    texts = generations([" sea ship", " sea salt", " cook", " ship", " and", " sea"])
    losses = texts.select(*GEN_SUCCESS.keys).with_columns(mean_nll=pl.Series([5.0, 3.0, 3.0, 9.0, 3.0, None]))

    def rated(concept: str | None) -> pl.DataFrame:
        known = {"layer": pl.UInt16, "feature": pl.UInt32, "concept": pl.String}
        concepts = pl.DataFrame({"layer": [LAYER], "feature": [1], "concept": [concept]}, schema=known)
        return validate(JUDGEMENTS, rate(with_concept(texts, concepts), losses, two_topics(tokens), ["sea", "cooking"]), "test")

    rows = rated("sea")
    assert rows["concept_rating"].to_list() == [2, 1, 0, 2, None, 2]
    assert rows["fluency_rating"].to_list() == [1, 2, 2, 0, 2, None]
    assert rows["judge_score"].to_list() == pytest.approx([4 / 3, 4 / 3, 0.0, 0.0, None, None])
    assert rows["reason"].to_list() == [None] * 4 + ["no content to rate", "no loss to rate"]
    unclear = rated(None)
    assert unclear["judge_score"].null_count() == len(unclear)
    assert unclear["fluency_rating"].to_list() == rows["fluency_rating"].to_list()
    assert set(unclear["reason"]) == {"the feature has no clear concept"}


def test_a_features_lens_tokens_and_its_concepts_name_do_not_count_outside(tokens: TextTokens) -> None:
    texts = pl.DataFrame(
        [
            (" sea ship", "sea", ["▁and"], 2.0),  # "ship" remains
            (" sea ship", "cooking", ["▁ship"], 0.0),  # "sea" remains
            (" ship salt", "sea", ["▁salt", "▁and"], 2.0),
            (" ship salt", "sea", ["▁Ship"], 0.0),  # "salt" remains
            (" sea ship and", "sea", ["▁ship"], None),  # nothing remains: missing, not 0
            (None, "sea", ["▁ship"], None),
            (" sea ship", None, ["▁ship"], None),
        ],
        schema=["text", "concept", "tokens", "expected"],
        orient="row",
    )
    assert ratings_outside(texts, two_topics(tokens), ["sea", "cooking"]).to_list() == texts["expected"].to_list()


def test_steering_table_takes_means_of_what_is_there() -> None:
    keys = of_features(generations(["a", "b", "c"])).select(FEATURE_TEXT)
    counts = keys.with_columns(*(pl.Series([1, 3, 7], dtype=pl.UInt16).alias(f"gen_success_{k}") for k in (1, 5, 20)))
    whole = pl.Series([math.log(4), math.log(7), math.log(16)])
    losses = keys.with_columns(mean_nll=pl.Series([math.log(2), None, math.log(8)]), n_scored=pl.lit(1, pl.UInt16), whole_text_nll=whole)
    ratings = keys.with_columns(
        concept_rating=pl.lit(None, pl.UInt8),
        fluency_rating=pl.Series([0, 2, 1], dtype=pl.UInt8),
        judge_score=pl.lit(None, pl.Float64),
        concept_outside=pl.Series([2.0, None, 1.0]),
    )
    halves = dict(zip(keys["prefix_id"], [0, 1, 0], strict=True))
    rows = validate(STEERING, steering_table(counts, losses, ratings, halves), "test").sort("half").rows(named=True)
    assert [(row["n"], row["gen_success_20"], row["n_perplexity"], row["n_judged"]) for row in rows] == [(2, 4.0, 2, 0), (1, 3.0, 0, 0)]
    assert math.exp(rows[0]["log_perplexity"]) == pytest.approx(4)  # geometric mean of 2 and 8
    assert rows[1]["log_perplexity"] is None
    assert [row["mean_perplexity"] for row in rows] == [pytest.approx(5), None]  # arithmetic mean of 2 and 8
    assert [row["whole_text_perplexity"] for row in rows] == pytest.approx([10, 7])  # arithmetic mean of 4 and 16
    assert [(row["concept_outside"], row["n_outside"]) for row in rows] == [(1.5, 2), (None, 0)]
    assert [(row["n_concept"], row["n_fluency"]) for row in rows] == [(0, 2), (0, 1)]
    assert rows[0]["fluency_rating"] == 0.5
