"""Degenerate texts of ordinary English and the ceilings of a judge that knows concepts as words, both fixed before such a judge is made."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import degenerate_texts as degenerate
import polars as pl

HONEST, UNSTEERED = "honest", "unsteered"
CONCEPT_AFTER, CONCEPT_BEFORE, CONCEPT_NAMED = "concept after", "concept before", "concept named"
DESIGN = (*degenerate.DESIGN, CONCEPT_AFTER, CONCEPT_NAMED)
"""Kinds that a judge may be tuned on."""
HELD_OUT = (*degenerate.HELD_OUT, CONCEPT_BEFORE)
"""Kinds that are scored once, at the end."""
PART_OF_HONEST = 0.25
"""Largest mean score of a kind, as a part of what sentences on the concept have."""
MOST_SCORE = 0.4
"""Largest mean score (0 to 2) of a kind that a judge may give: a quarter of what the best honest method had when these kinds were fixed
(LoReFT and RePS, 1.58 to 1.63); if its score by the judge in question is lower, a quarter of that."""
MOST_GOOD = 0.2
"""Largest share of a kind's texts with a score of 1 or more."""
LEAST_HONEST = 1.0
"""Smallest mean score of sentences on the concept: a judge that rates nothing well is of no use."""

WORDS: Mapping[str, Sequence[str]] = {
    "sea": ["ocean", "waves", "ship", "sailors", "boat", "harbour", "tide", "fish", "captain", "coast", "water", "sail"],
    "cooking": ["food", "kitchen", "recipe", "soup", "oven", "bread", "butter", "sauce", "meat", "salt", "pan", "dough"],
    "music": ["song", "orchestra", "piano", "melody", "singer", "violin", "concert", "band", "choir", "guitar", "notes", "rhythm"],
    "astronomy": ["stars", "moon", "planet", "sun", "telescope", "galaxy", "sky", "comet", "orbit", "eclipse", "space", "universe"],
    "gardening": ["plants", "flowers", "garden", "soil", "seeds", "roses", "tree", "leaves", "weeds", "lawn", "roots", "shrubs"],
    "war": ["soldiers", "battle", "army", "enemy", "guns", "troops", "general", "bombs", "attack", "weapons", "fort", "killed"],
}
"""Of each concept the words that strong steering ends in."""


def sentences() -> pl.DataFrame:
    """Concept, opener and text; the concept of everyday sentences is empty."""
    return pl.read_csv(Path(__file__).with_name("english_texts.csv")).with_columns(pl.col("concept").fill_null(""))


def unsteered() -> pl.DataFrame:
    """Opener and text of everyday sentences."""
    return sentences().filter(concept="").select("opener", text=" " + pl.col("text"))


def texts(n_concepts: int = len(WORDS), n_prompts: int = 10) -> pl.DataFrame:
    """kind, concept, opener and text: of each concept as many of every kind, and its sentences, on the same prompts."""
    labelled = sentences().filter(pl.col("concept") != "")
    made = degenerate.degenerate_texts(labelled, n_concepts=n_concepts, n_prompts=n_prompts, topical=WORDS)
    everyday = [text.removesuffix(".") for text in sentences().filter(concept="")["text"]]
    rng, rows = random.Random(0), []
    for concept, opener in made.select("concept", "opener").unique(maintain_order=True).iter_rows():
        for kind, text in _named(concept, rng.choice(everyday)).items():
            rows.append((kind, concept, opener, f" {text}."))
    named = pl.DataFrame(rows, schema=made.columns, orient="row")
    of_prompts = labelled.join(made.select("concept", "opener").unique(), on=["concept", "opener"], how="semi")
    honest = of_prompts.select(pl.lit(HONEST).alias("kind"), "concept", "opener", text=" " + pl.col("text"))
    return pl.concat([made, named, honest])


def _named(concept: str, sentence: str) -> Mapping[str, str]:
    """A sentence on something else beside the concept's name, and the name alone in a sentence that is always the same."""
    return {
        CONCEPT_AFTER: f"{sentence}, and that is {concept}",
        CONCEPT_BEFORE: f"{concept}: {sentence}",
        CONCEPT_NAMED: f"this is a text about {concept}",
    }


def above_ceilings(rated: pl.DataFrame, kinds: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Of the kinds, mean score and share of texts with 1 or more of those that are above a ceiling. rated: `texts` with judge_score."""
    scored = rated.with_columns(score=pl.col("judge_score").fill_null(0))
    rows = scored.group_by("kind").agg(mean=pl.col("score").mean(), good=(pl.col("score") >= 1).mean())
    means = {kind: (mean, good) for kind, mean, good in rows.iter_rows()}
    most = min(MOST_SCORE, PART_OF_HONEST * means[HONEST][0])
    return {kind: means[kind] for kind in kinds if means[kind][0] > most or means[kind][1] > MOST_GOOD}
