"""The table of all features, by columns: a browser loads those that it shows first, and searches and sorts the whole in memory. A search
also finds a feature by words of its max-activating examples: few of each, those that set its examples apart."""

from pathlib import Path
from typing import Any

import polars as pl

from saesteer.analysis.acceptability import is_function_word
from saesteer.analysis.tables import OUTCOMES, STEERING
from saesteer.run import Run
from saesteer.settings import Sweep
from saesteer.site.pieces import as_json, packed, write_piece
from saesteer.steps.features import FEATURES
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES

CHUNK = 1 << 16
"""Rows of a column in one piece."""
N_LOGIT_LENS_TOKENS = 8
"""Top logit-lens tokens that the table shows; a search finds all."""
MOST_CONCEPTS = 300
"""With more different concepts than this there is no list to choose one from."""
_NUMBERS = {
    "gain": OUTCOMES,  # of the judge score
    "strength": STEERING,  # the recommended factor
    "judge_score": OUTCOMES,
    "net_gen_success_20": OUTCOMES,
    "gen_success_20": OUTCOMES,
    "output_score": FEATURES,
    "input_score": FEATURES,
    "density": FEATURES,
}
_KEYS = ["layer", "feature"]
_SUCCESSES = ("judge_score", "net_gen_success_20", "gen_success_20")
_RANKED_BY = ("gain", "net_gen_success_20", "gen_success_20", "output_score")
AROUND = 8
"""Tokens on each side of an example's maximum in which words count."""
N_WORDS = (8, 60)
"""Words of a feature: the least number and the most at which the rest is cut off."""
LEAST_SHARE = 0.05
"""A word counts that is in at least this share of a feature's examples."""
_ALL_WORDS = 3_400_000  # of all features together: 8 for each feature of 26 layers of 16,384
_WORD = r"\p{L}{3,}"
_SPECIAL = r"<[|/]?\w+\|?>|\[[A-Z]{3,}\]"  # such as <bos>


def write_feature_table(folder: Path, run: Run, features: pl.DataFrame, scores: pl.DataFrame | None) -> dict[str, Any]:
    """Write the columns of FEATURES (sorted by its keys), of the OUTCOMES by the experiment's rule and of `held_out_scores`; gives what the
    page has to know of them."""
    rows = _measured(run, features, scores)
    numbers = [name for name in _NUMBERS if name in rows.columns and rows[name].null_count() < rows.height]
    more = _searched(run, rows)
    order = _first_shown(rows)
    for start in range(0, rows.height, CHUNK):
        part, k = rows.slice(start, CHUNK), start // CHUNK
        write_piece(folder, f"c/feature/{k}", as_json(packed(part["feature"])))
        write_piece(folder, f"c/order/{k}", as_json(packed(order.slice(start, CHUNK))))
        for name in numbers:
            write_piece(folder, f"c/{name}/{k}", as_json(packed(part[name].cast(pl.Float32))))
        texts = part.select("label", lens=_one_line(pl.col("top_logit_lens_tokens").list.head(N_LOGIT_LENS_TOKENS)))
        for text in (*texts, more.slice(start, CHUNK)):
            write_piece(folder, f"c/{text.name}/{k}", as_json("\n".join(text)))
    concepts = rows.drop_nulls("concept")["label"].unique().sort()
    layers = rows.group_by("layer", maintain_order=True).len()
    return {
        "n": rows.height,
        "chunk": CHUNK,
        "layers": layers.rows(),
        "numbers": [[name, _NUMBERS[name].name] for name in numbers],
        "ranked_by": next((name for name in _RANKED_BY if name in numbers), None),
        "concepts": concepts.to_list() if len(concepts) <= MOST_CONCEPTS else [],
    }


def _measured(run: Run, features: pl.DataFrame, scores: pl.DataFrame | None) -> pl.DataFrame:
    """FEATURES with `label` and the columns of `_NUMBERS` that other tables have."""
    rows, outcomes = features.with_columns(labels(features)), run.summary_if_any(OUTCOMES)
    if outcomes is not None and isinstance(run.experiment, Sweep):
        by_rule = outcomes.filter(rule=run.experiment.best_factor.rule).select(*_KEYS, *_SUCCESSES)
        rows = rows.join(by_rule, on=_KEYS, how="left", maintain_order="left")
    if scores is not None:
        gain = pl.when(measure="judge_score").then("gain").alias("gain")
        more = scores.select(*_KEYS, gain, strength=pl.col("factor").cast(pl.Float64))
        rows = rows.join(more, on=_KEYS, how="left", maintain_order="left")
    return rows


def labels(features: pl.DataFrame) -> pl.Series:
    """`label`: each feature's concept or explanation, marked where it is a function word, or where there is none and most of the first top
    logit-lens tokens are. One string of lines is searched faster than a list of strings, so a label has no line ends."""
    label = pl.coalesce("concept", "explanation").fill_null("").str.replace_all(r"\s", " ")
    tokens = pl.col("top_logit_lens_tokens").list.head(N_LOGIT_LENS_TOKENS)
    marked = []
    for said, lens in features.select(label, tokens).iter_rows():
        words = [said] if said else [token.strip("▁Ġ ") for token in lens]
        is_common = 2 * sum(map(is_function_word, words)) > len(words)
        marked.append(f"{said} (function word{'' if said else 's'})".strip() if is_common else said)
    return pl.Series("label", marked, pl.String)


def _one_line(tokens: pl.Expr) -> pl.Expr:
    return tokens.list.join(" ").str.replace_all("▁", "").str.replace_all(r"\s+", " ").str.strip_chars()


def _searched(run: Run, rows: pl.DataFrame) -> pl.Series:
    """`more`: what a search finds though the table does not show it, the other top logit-lens tokens and words of the examples."""
    n, layers = words_each(rows.height), rows["layer"].unique().sort().to_list()
    words = pl.concat(
        [example_words(run, layer, n).select(pl.lit(layer, pl.UInt16).alias("layer"), "feature", "words") for layer in layers]
    )
    other = _one_line(pl.col("top_logit_lens_tokens").list.slice(N_LOGIT_LENS_TOKENS))
    joined = rows.select("layer", "feature", other=other).join(words, on=["layer", "feature"], how="left", maintain_order="left")
    return joined.select(more=pl.concat_str("other", "words", separator=" ", ignore_nulls=True))["more"]


def _first_shown(rows: pl.DataFrame) -> pl.Series:
    """The rows in the order in which the table is shown first: by gain in judge score, then those without one by net success, or by
    GenSuccess@20 where there are no unsteered texts, then those without any by output score, the largest first; of equal ones by label,
    those without label last, then by layer and feature."""
    keys, known = [], pl.lit(False)
    for name in _RANKED_BY:
        if name in rows.columns:
            keys.append(pl.when(~known).then(-pl.col(name).cast(pl.Float64)))
            known = known | pl.col(name).is_not_null()
    ordered = [
        *(key.alias(f"key{number}") for number, key in enumerate(keys)),
        (pl.col("label") == "").alias("unlabelled"),
        pl.col("label"),
    ]
    by = rows.select(*ordered, "layer", "feature")
    return by.with_row_index("row").sort(by.columns, nulls_last=True)["row"]


def words_each(n_features: int) -> int:
    """How many words of each feature can be searched, by how many features the table has."""
    least, most = N_WORDS
    return min(most, max(least, _ALL_WORDS // max(n_features, 1)))


def example_words(run: Run, layer: int, n: int) -> pl.DataFrame:
    """feature, words: of each feature of a layer with examples up to n words, lower case, joined by spaces."""
    if not run.has_rows(MAX_ACTIVATING_EXAMPLES, layer):
        return pl.DataFrame(schema={"feature": pl.UInt32, "words": pl.String})
    return ranked_words(word_counts(run.rows(MAX_ACTIVATING_EXAMPLES, [layer], ["examples"])), n)


def ranked_words(counts: pl.DataFrame, n: int) -> pl.DataFrame:
    """feature, words, from `word_counts`: first the words that are in many of the feature's examples and in those of few other
    features; ties by alphabet."""
    counts = counts.filter(pl.col("n") >= LEAST_SHARE * pl.col("of"))
    rarity = (pl.col("feature").n_unique() / pl.len().over("word")).log()
    ranked = counts.with_columns(weight=(pl.col("n") * rarity).round(9)).sort("feature", -pl.col("weight"), "word")
    return ranked.group_by("feature", maintain_order=True).agg(words=pl.col("word").head(n).str.join(" "))


def word_counts(rows: pl.DataFrame) -> pl.DataFrame:
    """feature, word, n, of: in how many of how many examples of a feature a word is near the maximum."""
    every = rows.select("feature", "examples", of=pl.col("examples").list.len()).explode("examples", empty_as_null=False).unnest("examples")
    at = pl.col("token_index").cast(pl.Int64)
    start = (at - AROUND).clip(lower_bound=0)
    near = pl.col("context").list.slice(start, at - start + 1 + AROUND).list.join("").str.replace_all("▁", " ")
    words = near.str.replace_all(_SPECIAL, " ").str.to_lowercase().str.extract_all(_WORD)
    in_examples = every.select("feature", "of", "rank", word=words).explode("word").drop_nulls("word").unique()
    return in_examples.group_by("feature", "word").agg(n=pl.len().cast(pl.Int64), of=pl.col("of").first())
