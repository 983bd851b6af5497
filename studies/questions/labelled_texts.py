"""What labelled texts say of features and of their top logit-lens tokens, where each token is labelled with a topic or none."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from saesteer.analysis.concepts import NO_TOPIC
from saesteer.core.uncertainty import random_stream

N_TOKENS = 20
"""Tokens that stand for a concept: as many as a feature's top logit-lens tokens."""
LARGEST = 50
"""Labelled texts of a concept, and as many others, from which quantities are computed."""
_FEATURE = ["layer", "feature"]


def texts_by_topic(texts: pl.DataFrame, topics: Sequence[str]) -> pl.DataFrame:
    """Labelled texts (text_id, token_ids, token_topics) -> text_id, token_ids, concept (the topic of most of its tokens; ties: the first)
    and n_context (tokens before the first on it). Texts without a topic are left out."""
    tokens = texts.select("text_id", topic="token_topics").explode("topic").with_columns(place=pl.int_range(pl.len()).over("text_id"))
    counts = tokens.filter(pl.col("topic") != NO_TOPIC).group_by("text_id", "topic").agg(n=pl.len(), n_context=pl.col("place").min())
    most = counts.sort("text_id", "n", "topic", descending=[False, True, False]).unique("text_id", keep="first", maintain_order=True)
    concept = pl.col("topic").replace_strict(dict(enumerate(topics)), return_dtype=pl.String)
    chosen = most.filter(pl.col("n_context") > 0).select("text_id", "n_context", concept=concept)
    return texts.select("text_id", "token_ids").join(chosen, on="text_id", maintain_order="left")


def token_shares(texts: pl.DataFrame, topics: Sequence[str]) -> pl.DataFrame:
    """token_id, concept, n (uses on the concept) and share (of all its uses)."""
    uses = texts.select(token_id="token_ids", topic="token_topics").explode("token_id", "topic").cast({"token_id": pl.UInt32})
    counts = uses.group_by("token_id", "topic").agg(n=pl.len()).with_columns(share=pl.col("n") / pl.col("n").sum().over("token_id"))
    concept = pl.col("topic").replace_strict(dict(enumerate(topics)), return_dtype=pl.String)
    return counts.filter(pl.col("topic") != NO_TOPIC).select("token_id", "n", "share", concept=concept).sort("concept", "token_id")


def concept_tokens(shares: pl.DataFrame) -> dict[str, list[int]]:
    """Concept -> the `N_TOKENS` tokens used most on it, of those used more on it than elsewhere; of concepts that have as many."""
    mostly = shares.filter(pl.col("share") > 0.5).sort("concept", "n", "token_id", descending=[False, True, False])
    by_concept = mostly.group_by("concept", maintain_order=True).agg(pl.col("token_id").head(N_TOKENS))
    return {concept: ids for concept, ids in by_concept.iter_rows() if len(ids) == N_TOKENS}


def lens_on_concept(features: pl.DataFrame, shares: pl.DataFrame) -> pl.DataFrame:
    """FEATURES and `token_shares` -> layer, feature, lens_on_concept, of features with a concept."""
    lens = features.drop_nulls("concept").select(*_FEATURE, "concept", token_id="top_logit_lens_token_ids").explode("token_id")
    with_shares = lens.join(shares.select("token_id", "concept", "share"), on=["token_id", "concept"], how="left")
    return with_shares.group_by(_FEATURE).agg(lens_on_concept=pl.col("share").fill_null(0.0).mean()).sort(_FEATURE)


def chosen_texts(texts: pl.DataFrame, concept: str, n: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The first n (fewer where there are fewer) of `texts_by_topic` on a concept in a fixed random order, and as many of the others."""
    shuffled = texts[random_stream(0, "labelled texts", concept).permutation(texts.height).tolist()]
    positive = shuffled.filter(pl.col("concept") == concept).head(n)
    return positive, shuffled.filter(pl.col("concept") != concept).head(positive.height)


def detection(activations: pl.DataFrame, texts: pl.DataFrame, features: pl.DataFrame, n: int = LARGEST) -> pl.DataFrame:
    """ACTIVATIONS and FEATURES of one layer, `texts_by_topic` -> layer, feature, label_f1 and information: how well firing anywhere in a
    text tells that it is on the feature's concept, over n texts of it and as many others. Features with a concept."""
    labelled = features.drop_nulls("concept").select(*_FEATURE, "concept")
    fired = activations.select("text_id", "feature").explode("feature").unique()
    lines = []
    for (concept,), features_of_concept in labelled.sort("feature").group_by("concept", maintain_order=True):
        groups = chosen_texts(texts, str(concept), n)
        if not groups[0].height or groups[0].height != groups[1].height:
            continue
        counts = features_of_concept.select(_FEATURE)
        for name, group in zip(("positive", "negative"), groups, strict=True):
            of = fired.join(group.select("text_id"), on="text_id", how="semi").group_by("feature").agg(pl.len().alias(name))
            counts = counts.join(of, on="feature", how="left", maintain_order="left").with_columns(pl.col(name).fill_null(0).cast(pl.Int64))
        lines.append(counts.with_columns(n=pl.lit(groups[0].height)))
    if not lines:
        return pl.DataFrame(schema=labelled.select(_FEATURE).schema | {"label_f1": pl.Float64, "information": pl.Float64})
    rows = pl.concat(lines)
    n_each, hits, false = (rows[name].to_numpy() for name in ("n", "positive", "negative"))
    scores = rows.select(_FEATURE).with_columns(label_f1=pl.Series(2 * hits / (hits + false + n_each)))
    return scores.with_columns(information=pl.Series(information(hits, false, n_each))).sort(_FEATURE)


def information(positive: np.ndarray, negative: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Nats between firing and label from the counts of texts, n of each kind, that a feature fires in; negative where it fires in a smaller
    share of positive texts, so that the largest is best."""
    joint = np.stack([positive, negative, n - positive, n - negative]).reshape(2, 2, -1) / (2 * n)  # [fires label feature]
    independent = joint.sum(axis=0, keepdims=True) * joint.sum(axis=1, keepdims=True)
    safe = np.where(joint > 0, joint, 1.0)
    nats = (joint * (np.log(safe) - np.log(np.where(joint > 0, independent, 1.0)))).sum(axis=(0, 1))
    signed: np.ndarray = np.where(positive >= negative, nats, -nats)
    return signed
