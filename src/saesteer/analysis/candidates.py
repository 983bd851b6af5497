"""The features that may steer towards a concept, by what is known of them without steering: their labels, what activates them, and
which tokens they promote.

Of features with the concept's label those of the largest max activation come first: of the rules of docs/tables/choice-rules.md it came
nearest to brute force.
"""

import re
from collections.abc import Callable, Sequence

import polars as pl

MATCHES = ("label", "explanation", "search", "examples", "lens", "lens, beginning", "direction", "embedding")
"""How a candidate was found, in order."""
N_SAID = 3
"""The first of them: somebody says that the feature is about the concept."""


def candidates(features: pl.DataFrame, concept: str, n_per_layer: int, further: Sequence[str] = ()) -> pl.DataFrame:
    """The first `n_per_layer` features of a layer -> layer, feature, match. First those that are said to be about the concept (its label, a
    word of the explanation, a search by meaning), in this order and then by their max activation. Then in turns those that show it (the
    word they fire on, a top logit-lens token, the beginning of the word among these tokens), in the same way, and those whose direction
    has the largest cosine with the concept's, if it is positive. `further` are words that show it as those of its name do. Where there are
    similarities, the largest of these in place of words and directions.

    features: FEATURES columns, fires_on (`fired_on`; may be null), near (whether such a search gave the feature) and, where they were
    computed, cosine and similarity (of its words with the concept, by embeddings: `similarities`).
    """
    by_match = features.with_columns(rank=_match(concept, further)).drop_nulls(["rank", "max_activation"])
    matched = by_match.sort("layer", "rank", "max_activation", "feature", descending=[False, False, True, False])
    listed = [matched]
    if "similarity" in features.columns:
        listed = [matched.filter(pl.col("rank") < N_SAID), _of_largest(features.drop_nulls("max_activation"), "similarity", "embedding")]
    elif "cosine" in features.columns:
        listed.append(_of_largest(features, "cosine", "direction"))
    said = pl.col("rank") < N_SAID
    places = (of.select("layer", "feature", "rank", said=said, place=pl.int_range(pl.len()).over("layer", said)) for of in listed)
    ranked = pl.concat(places).sort("layer", "said", "place", "rank", descending=[False, True, False, False])
    first = ranked.unique(["layer", "feature"], keep="first", maintain_order=True).group_by("layer", maintain_order=True).head(n_per_layer)
    return first.select("layer", "feature", match=pl.col("rank").replace_strict(dict(enumerate(MATCHES)), return_dtype=pl.String))


def _of_largest(features: pl.DataFrame, column: str, match: str) -> pl.DataFrame:
    """Features in descending order of a column, as far as it is positive, with the rank of a match."""
    positive = features.filter(pl.col(column) > 0).with_columns(rank=pl.lit(MATCHES.index(match), pl.Int32))
    return positive.sort("layer", column, "feature", descending=[False, True, False])


def _match(concept: str, further: Sequence[str]) -> pl.Expr:
    """The place in MATCHES of how a feature matches the concept; null where it does not."""
    of_name = sorted(concept_words(concept))
    words = [*of_name, *(word.lower() for word in further)]
    said, tokens = pl.coalesce("explanation", pl.lit("")).str.to_lowercase(), pl.col("top_logit_lens_tokens")
    beginnings = tokens.list.eval(_word(pl.element().filter(pl.element().str.contains("^[▁Ġ ]"))))
    rules = [
        pl.col("concept").str.to_lowercase() == concept.lower(),
        pl.all_horizontal(said.str.contains(rf"(?:^|\W){re.escape(word)}(?:s|es)?(?:\W|$)") for word in of_name),
        pl.col("near"),
        _word(pl.col("fires_on")).is_in([form for word in words for form in (word, f"{word}s")]),
        pl.any_horizontal(tokens.list.eval(_word(pl.element())).list.contains(word) for word in words),
        pl.any_horizontal(beginnings.list.set_intersection(_beginnings(word)).list.len() > 0 for word in words),
    ]
    return pl.coalesce(pl.when(rule).then(pl.lit(place, pl.Int32)) for place, rule in enumerate(rules))


def concept_words(concept: str) -> set[str]:
    """The words of a concept's name by which features are found: those of more than two letters."""
    return {word for word in concept.lower().split() if len(word) > 2} or {concept.lower()}


def _beginnings(word: str) -> list[str]:
    """Beginnings of a word that are at least half of it, and two letters: other words begin so too, but fewer."""
    return [word[:length] for length in range(max(2, (len(word) + 1) // 2), len(word))]


def _word(token: pl.Expr) -> pl.Expr:
    """A token without what marks the beginning of a word, in lower case."""
    return token.str.strip_chars("▁Ġ ").str.to_lowercase()


def lens_words(features: pl.DataFrame) -> pl.DataFrame:
    """layer, feature, word, len: the top logit-lens tokens, what a feature writes, as `words_at_maxima` has the words that it fires on."""
    words = features.select("layer", "feature", word=pl.col("top_logit_lens_tokens").list.eval(_word(pl.element()))).explode("word")
    return words.drop_nulls().with_columns(len=pl.lit(1, pl.UInt32))


def similarities(words: Sequence[pl.DataFrame], cosines: Callable[[Sequence[str]], Sequence[float]]) -> pl.DataFrame:
    """layer, feature, similarity: the mean cosine of a concept with a feature's words, summed over tables of them (layer, feature, word,
    and len, how often). `cosines`: of words with the concept."""
    different = pl.concat(table.select("word") for table in words)["word"].unique(maintain_order=True)
    known = pl.DataFrame({"word": different, "cosine": pl.Series(cosines(different.to_list()), dtype=pl.Float64)})
    mean = (pl.col("cosine") * pl.col("len")).sum() / pl.col("len").sum()
    means = pl.concat(table.join(known, on="word").group_by("layer", "feature").agg(similarity=mean) for table in words)
    return means.group_by("layer", "feature").agg(pl.col("similarity").sum())
