"""Ratings of texts by a shipped world's judge: concept and fluency, each 0, 1 or 2, and their harmonic mean (AxBench, arXiv
2501.17148, section 3)."""

from collections.abc import Sequence

import polars as pl

from saesteer.analysis.score import judgements
from saesteer.core.texts import TEXT_KEYS
from saesteer.world.judges import WorldJudge

ALGORITHM_VERSION = 3


def rate(
    texts: pl.DataFrame,
    perplexity: pl.DataFrame,
    judge: WorldJudge,
    topics: Sequence[str],
    rates_blank: bool = False,
) -> pl.DataFrame:
    """The JUDGEMENTS rows of GENERATIONS rows with a column `concept` (a topic, or null), in their order.

    The concept rating looks at the continuation, the fluency rating also at its loss under the second model (`perplexity`: keys and
    mean_nll). What cannot be rated is null: where there is no text, no concept, or no content. With
    `rates_blank` a blank text is rated 0 on both, as one that shows nothing (P4 puts it to its judge).
    """
    numbers = {name: number for number, name in enumerate(topics)}
    unknown = sorted(set(texts["concept"].drop_nulls()) - set(topics))
    if unknown:
        raise ValueError(f"the judge knows no topic {unknown[0]!r}: ask for topics of its world, or take another judge")
    joined = texts.join(perplexity.select(*TEXT_KEYS, "mean_nll"), on=TEXT_KEYS, how="left", maintain_order="left")
    rows = joined.with_columns(mean_nll=pl.when(pl.col("text").is_not_null()).then("mean_nll"))
    ids = judge.read(rows["text"].fill_null("").to_list())
    concepts, losses = rows["concept"].to_list(), rows["mean_nll"].to_list()
    by_concept = [None if name is None else judge.concept(text, numbers[name]) for name, text in zip(concepts, ids, strict=True)]
    log_odds = [None if name is None else judge.log_odds(text, numbers[name]) for name, text in zip(concepts, ids, strict=True)]
    by_fluency = [judge.fluency(text, loss) for text, loss in zip(ids, losses, strict=True)]
    rated = rows.with_columns(
        concept_rating=pl.Series(by_concept, dtype=pl.UInt8),
        concept_log_odds=pl.Series(log_odds, dtype=pl.Float64),
        instruction_rating=pl.lit(None, pl.UInt8),
        fluency_rating=pl.Series(by_fluency, dtype=pl.UInt8),
    )
    return judgements(rated, rates_blank)


def ratings_outside(texts: pl.DataFrame, judge: WorldJudge, topics: Sequence[str]) -> pl.Series:
    """How much each text (columns text, concept and tokens, a feature's top logit-lens tokens) is about its concept by the words that are
    neither among these tokens nor in the concept's name; null where no other word says what the text is about, or there is no concept."""
    ratings: list[int | None] = []
    left_out: dict[tuple[str, ...], set[int]] = {}
    for ids, name, tokens in zip(
        judge.read(texts["text"].fill_null("").to_list()), texts["concept"], texts["tokens"].to_list(), strict=True
    ):
        if name is None:
            ratings.append(None)
            continue
        words = tuple(token.strip("▁Ġ ") for token in (*(tokens or ()), name))
        if words not in left_out:
            known = " " + " ".join(words)
            left_out[words] = {number for of in judge.read([known, known.lower(), known.title()]) for number in of}
        ratings.append(judge.concept([number for number in ids if number not in left_out[words]], topics.index(name)))
    return pl.Series("concept_outside", ratings, dtype=pl.Float64)


def other_ratings(texts: pl.DataFrame, judge: WorldJudge, topics: Sequence[str]) -> pl.Series:
    """How much each text (columns text and concept, a topic) is about other topics: the mean over them of their concept rating, 0 to 2;
    null where there is nothing to rate."""
    means = []
    for name, ids in zip(texts["concept"].to_list(), judge.read(texts["text"].fill_null("").to_list()), strict=True):
        by_topic = [judge.concept(ids, topic) for topic in range(judge.n_topics) if topic != topics.index(name)]
        ratings = [rating for rating in by_topic if rating is not None]
        means.append(sum(ratings) / len(ratings) if ratings else None)
    return pl.Series("other_rating", means, dtype=pl.Float64)
