"""Ratings of texts by a shipped world's judge: concept and fluency, each 0, 1 or 2, and their harmonic mean (AxBench, arXiv
2501.17148, section 3)."""

from collections.abc import Iterator, Sequence

import polars as pl

from saesteer.analysis.score import harmonic_mean
from saesteer.core.tables import GENERATIONS, JUDGEMENTS
from saesteer.world.judges import WorldJudge

ALGORITHM_VERSION = 2


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
    joined = texts.join(perplexity.select(*GENERATIONS.keys, "mean_nll"), on=GENERATIONS.keys, how="left", maintain_order="left")
    rows = joined.with_columns(mean_nll=pl.when(pl.col("text").is_not_null()).then("mean_nll"))
    ids = judge.read(rows["text"].fill_null("").to_list())
    concept = [
        None if name is None else judge.concept(text, numbers[name]) for name, text in zip(rows["concept"].to_list(), ids, strict=True)
    ]
    fluency = [judge.fluency(text, nll) for text, nll in zip(ids, rows["mean_nll"].to_list(), strict=True)]
    rated = rows.with_columns(
        concept_rating=pl.Series(concept, dtype=pl.UInt8),
        instruction_rating=pl.lit(None, pl.UInt8),
        fluency_rating=pl.Series(fluency, dtype=pl.UInt8),
    )
    if rates_blank:
        blank = pl.col("text").str.strip_chars().eq("") & pl.col("concept").is_not_null()
        zero = pl.lit(0, pl.UInt8)
        rated = rated.with_columns(pl.when(blank).then(zero).otherwise(name).alias(name) for name in ("concept_rating", "fluency_rating"))
    scored = rated.with_columns(judge_score=harmonic_mean(["concept_rating", "fluency_rating"]), reason=_reason())
    return scored.select(list(JUDGEMENTS.columns))


def other_ratings(texts: pl.DataFrame, judge: WorldJudge, topics: Sequence[str]) -> pl.Series:
    """How much each text (columns text and concept, a topic) is about other topics: the mean over them of their concept rating, 0 to 2;
    null where there is nothing to rate."""
    numbers = {name: number for number, name in enumerate(topics)}
    ids = judge.read(texts["text"].fill_null("").to_list())
    ratings = [other_rating(judge, text, numbers[name]) for name, text in zip(texts["concept"].to_list(), ids, strict=True)]
    return pl.Series("other_rating", ratings, dtype=pl.Float64)


def stretch_ratings(texts: pl.DataFrame, judge: WorldJudge, topics: Sequence[str], size: int) -> pl.DataFrame:
    """Each text's whole stretches of `size` words, a row each: its other columns, stretch (from 1), concept_rating of the stretch by
    itself, and capitals, the share of its words that begin with a capital without beginning a sentence."""
    numbers = {name: number for number, name in enumerate(topics)}
    cut = [(row, *part) for row, text in enumerate(texts["text"].fill_null("").to_list()) for part in _stretches(text, size)]
    rows, stretches, parts, capitals = zip(*cut, strict=True) if cut else ((), (), (), ())
    concepts = texts["concept"].gather(list(rows)).to_list()
    ratings = [judge.concept(ids, numbers[name]) for name, ids in zip(concepts, judge.read(parts), strict=True)]
    return texts.drop("text")[list(rows)].with_columns(
        stretch=pl.Series(stretches, dtype=pl.UInt16),
        concept_rating=pl.Series(ratings, dtype=pl.UInt8),
        capitals=pl.Series(capitals, dtype=pl.Float64),
    )


def _stretches(text: str, size: int) -> Iterator[tuple[int, str, float]]:
    """Number from 1, text and share of capitals of each whole stretch of words."""
    words = text.split()
    begins = [True, *(word.rstrip("\"'”’)")[-1:] in tuple(".!?") for word in words)]  # a sentence, of each word
    capital = [word.lstrip("\"'“‘(")[:1].isupper() and not first for word, first in zip(words, begins, strict=False)]
    for number in range(len(words) // size):
        part = slice(number * size, (number + 1) * size)
        yield number + 1, " ".join(words[part]), sum(capital[part]) / size


def other_rating(judge: WorldJudge, token_ids: Sequence[int], topic: int) -> float | None:
    """Mean over all other topics of their concept rating; None when there is nothing to judge."""
    others = [judge.concept(token_ids, other) for other in range(judge.n_topics) if other != topic]
    ratings = [rating for rating in others if rating is not None]
    return sum(ratings) / len(ratings) if ratings else None


def _reason() -> pl.Expr:
    return (
        pl.when(pl.col("text").is_null())
        .then("reason")
        .when(pl.col("concept").is_null())
        .then(pl.lit("the feature has no clear concept"))
        .when(pl.col("concept_rating").is_null())
        .then(pl.lit("no content to rate"))
        .when(pl.col("fluency_rating").is_null())
        .then(pl.lit("no loss to rate"))
    )
