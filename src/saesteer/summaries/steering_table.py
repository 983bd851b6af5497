"""Means over generations: one row a feature, factor and half of the prefixes."""

from collections.abc import Sequence

import polars as pl
from tqdm import tqdm

from saesteer.core.tables import CONCEPTS, FEATURE_TEXT, GEN_SUCCESS, GENERATIONS, JUDGEMENTS, LOGIT_LENS, PERPLEXITY, STEERING, of_features
from saesteer.run import Run
from saesteer.settings import EmbeddingJudge, NoJudge, OracleJudge
from saesteer.steps.judge import excerpts_of_examples
from saesteer.summaries.counted_ratings import counted_ratings
from saesteer.summaries.summary import Summary, sweeps


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.halves import split_halves
    from saesteer.analysis.summaries import steering_table

    judged = not isinstance(run.sweep.judge, NoJudge)
    ratings = counted_ratings(run, layers) if judged else pl.DataFrame(schema=JUDGEMENTS.schema)
    steps = (run.rows(GEN_SUCCESS, layers), run.rows(PERPLEXITY, layers), ratings)
    success, losses, rated = (of_features(rows).drop("reason") for rows in steps)
    return {STEERING.name: steering_table(success, losses, _with_outside(run, layers, rated), split_halves(run.prompts()))}


def _with_outside(run: Run, layers: Sequence[int], rated: pl.DataFrame) -> pl.DataFrame:
    """Ratings with `concept_outside`, by the words that are no top logit-lens tokens; null where a language model judges, which would
    have to be paid for it."""
    judge = run.sweep.judge
    if not isinstance(judge, OracleJudge | EmbeddingJudge):
        return rated.with_columns(concept_outside=pl.lit(None, pl.Float64))
    concepts, lens = run.rows(CONCEPTS, layers, ["concept"]), run.rows(LOGIT_LENS, layers, ["tokens"])
    known = concepts.join(lens, on=CONCEPTS.keys, how="left")
    texts = of_features(run.rows(GENERATIONS, layers, ["text"])).join(known, on=CONCEPTS.keys, how="left", maintain_order="left")
    if isinstance(judge, EmbeddingJudge):
        outside = _outside_by_embedding(run, judge, texts)
    else:
        from saesteer.world.rating import ratings_outside

        outside = texts.select(*FEATURE_TEXT, ratings_outside(texts, run.world_judge(), run.topics()))
    return rated.join(outside, on=FEATURE_TEXT, how="left", maintain_order="left")


def _outside_by_embedding(run: Run, judge: EmbeddingJudge, texts: pl.DataFrame) -> pl.DataFrame:
    """FEATURE_TEXT and concept_outside of texts that have a concept. texts: FEATURE_TEXT, text, concept, tokens."""
    from saesteer.judge.embedding import load_embedder
    from saesteer.judge.rate_embedding import concept_of
    from saesteer.judge.rate_outside import of_lens_tokens, ratings_outside

    embedder, tokens = load_embedder(run.model_folder("judge_model")), run.tokens()
    parts = [pl.DataFrame(schema=texts.select(FEATURE_TEXT).schema | {"concept_outside": pl.Float64})]
    named = texts.drop_nulls("concept")
    with tqdm(total=named.height, desc=STEERING.name, unit="text", mininterval=5, leave=False) as bar:
        for (layer,), of_layer in named.group_by("layer", maintain_order=True):
            examples = excerpts_of_examples(run, int(str(layer)))
            for (feature, name), rows in of_layer.group_by("feature", "concept", maintain_order=True):
                described = examples.get(str(feature), judge.descriptions).get(str(name), ())
                is_left_out = of_lens_tokens(rows["tokens"][0].to_list(), str(name), tokens)
                said, plain = (of["text"].fill_null("").to_list() for of in (rows, rows.filter(factor="0")))
                outside = ratings_outside(concept_of(str(name), described, embedder.vectors), said, plain, is_left_out)
                parts.append(rows.select(FEATURE_TEXT).with_columns(concept_outside=pl.Series(outside, dtype=pl.Float64)))
                bar.update(rows.height)
    return pl.concat(parts)


SUMMARY = Summary((STEERING,), sweeps, compute)
