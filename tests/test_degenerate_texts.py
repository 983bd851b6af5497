"""Texts that game a judge: what the table of them holds, and what the worlds' judges make of it."""

import json
import math
from functools import cache
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from saesteer.analysis.recommendation import recommend
from saesteer.core.files import text_id
from saesteer.core.tables import GENERATIONS
from saesteer.core.tokens import load_tokens
from saesteer.engine.models import load_language_model
from saesteer.engine.perplexity import text_losses
from saesteer.settings import SelectionSettings
from saesteer.world.concept_texts import topic_texts
from saesteer.world.degenerate import KINDS, LEAST_HONEST, MOST_GOOD, MOST_SCORE, degenerate_texts
from saesteer.world.judges import load_judge
from saesteer.world.lexicon import load_lexicon
from saesteer.world.rating import rate

ROOT = Path(__file__).parents[1]
SEED = 77
"""Of sentences that nothing was fitted on."""
JUDGES = {"world": "oracle", "world-books": "judge"}
HONEST = "honest"
HONEST_BEFORE = {"world": 2.0, "world-books": 1.94}
"""Mean score of labelled sentences by the judges that did not know degenerate texts (commit 3459253)."""


@cache
def labelled(world: str) -> pl.DataFrame:
    """Sentences of a world by their concept, each with the opener that it goes on from."""
    if world == "world-books":
        return pl.read_parquet(ROOT / "data/world-books/concept_texts.parquet")
    lexicon = load_lexicon(ROOT / "data/world/lexicon.yaml", ROOT / "config/prefixes.txt")
    concepts, texts = topic_texts(lexicon, lexicon.names, lexicon.openers, 40, 0, SEED)
    return texts.join(concepts, on="concept_id").select("concept", opener="input", text="output")


@pytest.mark.parametrize("world", ["world", "world-books"])
def test_every_kind_is_there_as_often_and_the_order_of_sentences_does_not_matter(world: str) -> None:
    texts = degenerate_texts(labelled(world))
    assert texts["kind"].value_counts().sort("kind").rows() == [(kind, 20) for kind in sorted(KINDS)]
    assert texts["text"].is_unique().all()
    assert texts["concept"].n_unique() == min(20, labelled(world)["concept"].n_unique())
    assert_frame_equal(degenerate_texts(labelled(world).sample(fraction=1, shuffle=True, seed=1)), texts)
    assert not degenerate_texts(labelled(world), seed=1).equals(texts)


def test_kinds_are_what_they_say() -> None:
    sentences = [("sky", "Look:", "the moon rose over moon and stars."), ("food", "Well,", "he fried the peas in a deep pan of oil.")]
    texts = degenerate_texts(pl.DataFrame(sentences, schema=["concept", "opener", "text"], orient="row"), 40)
    words = {kind: [text.strip(" .").split() for text in texts.filter(kind=kind)["text"]] for kind in KINDS}
    assert all(len(set(of)) == 1 and len(of) >= 6 for of in words["one word"])
    assert all(of[0] == "the" and len(of) == 2 for of in words["the word"])
    assert all(any(of[n:] == of[:-n] for n in (2, 3, 4)) and len(of) == 18 for of in words["loop"])
    own = {concept: sorted(text.strip(".").split()) for concept, _, text in sentences}
    assert [sorted(of) for of in words["shuffled"]] == [own[concept] for concept in texts.filter(kind="shuffled")["concept"]]
    for kind, added in (("appended", (1, 3)), ("inserted", (1, 3)), ("substituted", (0, 0))):
        for concept, of in zip(texts.filter(kind=kind)["concept"], words[kind], strict=True):
            other = own["sky" if concept == "food" else "food"]
            assert len(other) + added[0] <= len(of) <= len(other) + added[1], kind
            assert set(of) & set(own[concept]), kind
    with pytest.raises(ValueError, match="of 1 concept"):
        degenerate_texts(pl.DataFrame(sentences[:1], schema=["concept", "opener", "text"], orient="row"))


def rated(world: str, texts: pl.DataFrame) -> pl.DataFrame:
    """Texts (concept, opener, text) with the ratings of a world's judge, by losses of its reference model."""
    folder = ROOT / "data" / world
    keys = {"layer": pl.lit(0), "method": pl.lit("feature"), "target": pl.lit("0"), "factor": pl.lit("1"), "sample": pl.int_range(pl.len())}
    prompts = {text_id(opener): opener for opener in texts["opener"].unique()}
    before = pl.col("opener").replace_strict({opener: key for key, opener in prompts.items()}, return_dtype=pl.String)
    rows = texts.with_columns(**keys, prefix_id=before, reason=pl.lit(None, pl.String)).cast(GENERATIONS.key_schema)
    lm = load_language_model(folder / "reference_model", "float32", "cpu")
    losses = pl.concat(text_losses(lm, rows, prompts, "plain"))
    topics = json.loads((folder / "topics.json").read_text(encoding="utf-8"))
    ratings = rate(rows, losses, load_judge(folder / JUDGES[world], load_tokens(folder / "reference_model")), topics)
    return rows.with_columns(ratings.select("concept_rating", "concept_log_odds", "fluency_rating", "judge_score"))


@cache
def scored(world: str) -> pl.DataFrame:
    """The table of a world and ten labelled sentences of each of its concepts, rated."""
    sentences = labelled(world)
    honest = sentences.sort("concept", "text").group_by("concept", maintain_order=True).head(10)
    honest = honest.with_columns(text=" " + pl.col("text"), kind=pl.lit(HONEST))
    return rated(world, pl.concat([degenerate_texts(sentences), honest], how="diagonal"))


@pytest.mark.parametrize("world", JUDGES)
def test_no_judge_of_a_world_rates_degenerate_texts_well(world: str) -> None:
    """The ceilings were fixed before the judges were fitted to know such texts; the judges before broke them in both worlds."""
    means = dict(scored(world).group_by("kind").agg(pl.col("judge_score").mean()).iter_rows())
    assert {kind: means[kind] for kind, (_, mixture) in KINDS.items() if not means[kind] <= MOST_SCORE[mixture]} == {}
    degenerate = scored(world).filter(pl.col("kind") != HONEST)
    assert len(degenerate) == 200
    assert (degenerate["judge_score"].fill_null(0) >= 1).mean() <= MOST_GOOD
    assert means[HONEST] >= LEAST_HONEST * HONEST_BEFORE[world]


def test_only_the_books_judge_gives_log_odds_and_on_topic_they_are_larger() -> None:
    assert scored("world")["concept_log_odds"].null_count() == scored("world").height
    odds = scored("world-books").filter(pl.col("kind").is_in([HONEST, "appended", "the word"])).group_by("kind")
    medians = dict(odds.agg(pl.col("concept_log_odds").median()).iter_rows())
    assert medians[HONEST] > medians["the word"] > medians["appended"]


@pytest.mark.parametrize("world", JUDGES)
def test_no_cut_of_the_loss_is_above_uniform_guessing(world: str) -> None:
    folder = ROOT / "data" / world
    settings = json.loads(next((folder / JUDGES[world]).glob("*.json")).read_text(encoding="utf-8"))
    cuts = settings.get("thresholds", settings)["fluency_nats"]
    vocabulary = json.loads((folder / "reference_model/config.json").read_text(encoding="utf-8"))["vocab_size"]
    assert 0 < cuts[0] < cuts[1] < math.log(vocabulary)


@pytest.mark.parametrize(
    ("texts", "verdict"),
    [
        (
            ["zero is zero is zero.", "zero is zero is zero is zero is zero.", "seven is seven is seven.", "is is is is is is is is."],
            "don't",
        ),
        (["seven is an odd number.", "three plus four is seven.", "two times four is eight.", "the double of two is four."], "use"),
    ],
)
def test_a_feature_that_writes_zero_is_zero_is_zero_is_not_recommended(texts: list[str], verdict: str) -> None:
    openers = (ROOT / "config/prefixes.txt").read_text(encoding="utf-8").splitlines()[:8]
    written = {"steered": [" " + text for text in texts * 2], "plain": [" the sailor steered the ship."] * 8}
    frames = {name: pl.DataFrame({"concept": "numbers", "opener": openers, "text": of}) for name, of in written.items()}
    steered, plain = (rated("world", frame) for frame in frames.values())
    settings = SelectionSettings(thresholds=(0.1,), late_layers_from=1, bootstrap_draws=400)
    options = pl.DataFrame({"kind": "feature", "layer": 0, "name": "7", "factor": "1"})
    texts = pl.concat([steered.with_columns(name=pl.lit("7")), plain.with_columns(name=pl.lit(""), factor=pl.lit("0"))])
    texts = texts.with_columns(kind=pl.lit("feature"), mean_nll=pl.lit(1.0))
    assert recommend("numbers", options, texts, settings, damage_limit=4.0).verdict == verdict
