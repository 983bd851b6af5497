"""The two tables that everything downstream reads: one row per feature, and one row per feature, factor and half of the prefixes."""

from collections.abc import Mapping, Sequence

import polars as pl

from saesteer.analysis.tables import STEERING
from saesteer.core.tables import FEATURE_KEYS


def features_table(
    examples: pl.DataFrame,
    concepts: pl.DataFrame,
    lens: pl.DataFrame,
    scores: Sequence[pl.DataFrame],
    norms: Mapping[int, float | Sequence[float] | None],
    pages: Mapping[int, str],
) -> pl.DataFrame:
    """The columns of the table of features, and others: step tables joined by (layer, feature). `norms` are those of each layer's decoder
    rows, one number where all are equal; `pages` are the addresses below which Neuronpedia has the layers' features, where it has them."""
    keys = list(FEATURE_KEYS)
    joined = examples.join(concepts.drop("reason"), on=keys, how="left")
    joined = joined.join(lens.select(*keys, top_logit_lens_tokens="tokens", top_logit_lens_token_ids="token_ids"), on=keys, how="left")
    for score in scores:
        joined = joined.join(score, on=keys, how="left")
    of_layers = ((norms[layer], feature) for layer, feature in joined.select(keys).iter_rows())
    of_rows = [norm[feature] if isinstance(norm, Sequence) else norm for norm, feature in of_layers]
    below = pl.col("layer").replace_strict(dict(pages), return_dtype=pl.String, default=None)
    return joined.with_columns(
        explanation=pl.col("explanations").list.first(),
        decoder_norm=pl.Series(of_rows, dtype=pl.Float64),
        page=pl.concat_str(below, "feature", separator="/"),
    )


def with_labels(examples: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """Rows with `explanations`, to which a feature's `label` is added at the end, where it has one."""
    joined = examples.join(labels, on=["layer", "feature"], how="left", maintain_order="left")
    return joined.with_columns(pl.col("explanations").list.concat(pl.concat_list("label").list.drop_nulls())).drop("label")


def steering_table(
    gen_success: pl.DataFrame, perplexity: pl.DataFrame, judgements: pl.DataFrame, halves: Mapping[str, int]
) -> pl.DataFrame:
    """The STEERING table: means over each half's generations. Missing values stay out of a mean, and how many were there is a column."""
    keys = ["layer", "feature", "factor", "prefix_id", "sample"]
    rows = gen_success
    for measured in (perplexity, judgements):
        rows = rows.join(measured, on=keys, how="left", maintain_order="left")
    rows = rows.sort(keys).with_columns(half=pl.col("prefix_id").replace_strict(dict(halves), return_dtype=pl.UInt8))
    rated = ("concept_rating", "concept_outside", "fluency_rating", "judge_score")
    counted = dict(zip(("n_concept", "n_outside", "n_fluency", "n_judged"), rated, strict=True))
    summary = rows.group_by(STEERING.keys).agg(
        *(pl.col(f"gen_success_{k}").cast(pl.Float64).mean() for k in (1, 5, 20)),
        *(pl.col(name).cast(pl.Float64).mean() for name in rated),
        **{name: pl.col(rating).count().cast(pl.UInt32) for name, rating in counted.items()},
        n=pl.col("gen_success_20").count().cast(pl.UInt32),
        log_perplexity=pl.col("mean_nll").mean(),
        n_perplexity=pl.col("mean_nll").count().cast(pl.UInt32),
        mean_perplexity=pl.col("mean_nll").exp().mean(),
        whole_text_perplexity=pl.col("whole_text_nll").exp().mean(),
    )
    return summary.select(list(STEERING.columns))
