"""Texts that game a judge: what the table of them holds, and what the worlds' judges make of it."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from degenerate_english import MOST_GOOD, MOST_SCORE
from degenerate_texts import DESIGN, HELD_OUT, Make, degenerate_texts

from saesteer.analysis.recommendation import recommend
from saesteer.analysis.repeats import without_repeats
from saesteer.core.files import text_id
from saesteer.core.tokens import load_tokens
from saesteer.engine.models import load_language_model
from saesteer.engine.perplexity import text_losses
from saesteer.settings import SelectionSettings
from saesteer.steps.generations import GENERATIONS
from saesteer.world.concept_texts import topic_texts
from saesteer.world.judges import load_judge
from saesteer.world.lexicon import load_lexicon
from saesteer.world.rating import rate

ROOT = Path(__file__).parents[1]
SEED = 77
"""Of sentences that nothing was fitted on."""
HONEST = "honest"
MOST_SCORE_OF = dict.fromkeys(("one word", "the word", "loop", "salad", "shuffled", "noise"), 0.25)
"""Lower ceilings of kinds, fixed before an earlier judge."""
LEAST_HONEST = 0.9 * 2.0
"""Smallest mean score of labelled sentences: nine tenths of what the judge gave them that did not know these kinds (commit 3459253)."""


@cache
def labelled(world: str) -> pl.DataFrame:
    """Sentences of a world by their concept, each with the opener that it goes on from."""
    if world == "topic-judge":
        return pl.read_parquet(ROOT / "data/topic-judge/concept_texts.parquet")
    lexicon = load_lexicon(ROOT / "data/world/lexicon.yaml", ROOT / "config/prefixes.txt")
    concepts, texts = topic_texts(lexicon, lexicon.names, lexicon.openers, 40, 0, SEED)
    return texts.join(concepts, on="concept_id").select("concept", opener="input", text="output")


def rated(texts: pl.DataFrame) -> pl.DataFrame:
    """Texts (concept, opener, text) with the ratings of the grammar's judge, by losses of its reference model; repeats among those of one
    kind and concept score 0."""
    folder = ROOT / "data/world"
    keys = {"layer": pl.lit(0), "method": pl.lit("feature"), "target": pl.lit("0"), "factor": pl.lit("1"), "sample": pl.int_range(pl.len())}
    prompts = {text_id(opener): opener for opener in texts["opener"].unique()}
    before = pl.col("opener").replace_strict({opener: key for key, opener in prompts.items()}, return_dtype=pl.String)
    rows = texts.with_columns(**keys, prefix_id=before, reason=pl.lit(None, pl.String)).cast(GENERATIONS.key_schema)
    lm = load_language_model(folder / "reference_model", "float32", "cpu")
    losses = pl.concat(text_losses(lm, rows, prompts, "plain"))
    topics = json.loads((folder / "topics.json").read_text(encoding="utf-8"))
    ratings = rate(rows, losses, load_judge(folder / "oracle", load_tokens(ROOT / "data/world/model")), topics)
    rated = rows.with_columns(ratings.select("concept_rating", "concept_log_odds", "fluency_rating", "judge_score"))
    return without_repeats(rated, ["kind", "concept"], dict.fromkeys(prompts, 0)) if "kind" in rated.columns else rated


@cache
def scored() -> pl.DataFrame:
    """Degenerate texts of the grammar's concepts and five labelled sentences of each concept after the same prompts, rated."""
    sentences = labelled("world")
    texts = degenerate_texts(sentences, n_concepts=4)
    honest = sentences.sort("concept", "text").sample(fraction=1, shuffle=True, seed=0).group_by("concept", maintain_order=True).head(5)
    prompts = texts["opener"].unique(maintain_order=True).to_list()
    honest = honest.with_columns(text=" " + pl.col("text"), kind=pl.lit(HONEST), opener=pl.Series(prompts * (len(honest) // 5)))
    return rated(pl.concat([texts, honest], how="diagonal_relaxed"))


def broken(kinds: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Of the kinds, mean score and share of texts with 1 or more of those that are above a ceiling."""
    score = pl.col("judge_score").fill_null(0)
    rows = scored().filter(pl.col("kind").is_in(list(kinds))).group_by("kind").agg(score.mean(), (score >= 1).mean().alias("good"))
    assert set(rows["kind"]) == set(kinds)
    return {kind: (mean, good) for kind, mean, good in rows.iter_rows() if mean > MOST_SCORE_OF.get(kind, MOST_SCORE) or good > MOST_GOOD}


@pytest.mark.parametrize("kinds", [DESIGN, HELD_OUT], ids=["design", "held out"])
def test_the_judge_does_not_rate_degenerate_texts_well(kinds: Mapping[str, Make]) -> None:
    """Kinds and ceilings were fixed before the judge was made (commit "Degenerate texts have nine more kinds"); those held out took no part
    in it."""
    assert broken(kinds) == {}


def test_labelled_sentences_keep_their_score() -> None:
    assert scored().filter(kind=HONEST)["judge_score"].mean() >= LEAST_HONEST


def test_the_books_judge_needs_several_words_and_gives_log_odds() -> None:
    folder = ROOT / "data/topic-judge"
    judge = load_judge(folder / "judge", load_tokens(ROOT / "data/world/model"))
    topics = json.loads((folder / "topics.json").read_text(encoding="utf-8"))
    texts = {HONEST: labelled("topic-judge").group_by("concept").head(10)}
    texts |= {kind: degenerate_texts(labelled("topic-judge")).filter(kind=kind) for kind in ("appended", "the word")}
    read = {kind: list(zip(judge.read(of["text"].to_list()), map(topics.index, of["concept"]), strict=True)) for kind, of in texts.items()}
    odds = {kind: np.median([judge.log_odds(*text) for text in of]) for kind, of in read.items()}
    assert odds[HONEST] > odds["the word"] > odds["appended"]
    shown = {kind: np.mean([(judge.concept(*text) or 0) > 0 for text in of]) for kind, of in read.items()}
    assert shown[HONEST] > 0.9
    assert shown["appended"] < 0.2
    assert scored()["concept_log_odds"].null_count() == scored().height


def test_no_cut_of_the_loss_is_above_uniform_guessing() -> None:
    settings = json.loads((ROOT / "data/world/oracle/oracle.json").read_text(encoding="utf-8"))
    nats = np.hstack([settings.get("thresholds", settings)[name] for name in ("nats", "most_nats")])
    vocabulary = json.loads((ROOT / "data/world/reference_model/config.json").read_text(encoding="utf-8"))["vocab_size"]
    assert 0 < nats[0] < nats[1] <= nats[-1] < math.log(vocabulary)


LOOPS = ["zero is zero is zero.", "zero is zero is zero is zero is zero.", "seven is seven is seven.", "is is is is is is is is."] * 2


@pytest.mark.parametrize(
    ("concept", "texts", "verdict"),
    [("numbers", LOOPS, "don't"), ("cooking", labelled("world").filter(concept="cooking")["text"][:8], "use")],
)
def test_a_feature_that_writes_zero_is_zero_is_zero_is_not_recommended(concept: str, texts: Sequence[str], verdict: str) -> None:
    openers = (ROOT / "config/prefixes.txt").read_text(encoding="utf-8").splitlines()[:8]
    written = {"steered": [" " + text for text in texts], "plain": [" the sailor steered the ship."] * 8}
    frames = {name: pl.DataFrame({"concept": concept, "opener": openers, "text": of}) for name, of in written.items()}
    steered, plain = (rated(frame) for frame in frames.values())
    settings = SelectionSettings(thresholds=(0.1,), late_layers_from=1)
    options = pl.DataFrame({"kind": "feature", "layer": 0, "name": "7", "factor": "1"})
    rows = pl.concat([steered.with_columns(name=pl.lit("7")), plain.with_columns(name=pl.lit(""), factor=pl.lit("0"))])
    rows = rows.with_columns(kind=pl.lit("feature"), mean_nll=pl.lit(1.0))
    assert recommend(concept, options, rows, settings, damage_limit=4.0).verdict == verdict
