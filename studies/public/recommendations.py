"""What `saesteer recommend` says of the plan's concepts on a public model, and what its pick does on prompts that took no part in it.

Of some concepts also what it picks among many more candidates (brute force). A file has a row as soon as it is computed, so that a run that
was stopped goes on.
"""

import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.analysis.recommendation import FEATURE, scored
from saesteer.api import steer
from saesteer.core.files import write_atomically, write_text
from saesteer.core.uncertainty import interval_columns
from saesteer.recommendations.answer import answer, as_sweep
from saesteer.recommendations.question import RecommendRequest
from saesteer.recommendations.scoring import N_PROMPTS, scored_texts
from saesteer.run import Run
from saesteer.settings import Workflow

FOLDER = Path("docs/recommend")
TRIES = {"first": FOLDER / "first", "second": FOLDER}
"""Try -> where its rows are. In the first, candidates were compared with a concept by the words that they fire on as well."""
FURTHER_CONCEPTS = (
    "snow", "dogs", "coffee", "Paris", "China", "a wedding", "love", "anger",
    "fear", "sadness", "death", "programming", "football", "school", "trade", "politeness",
)  # fmt: skip
"""Concepts of docs/plan.md on which no methods are compared."""
BRUTE_FORCE = ("the sea", "cooking", "war", "music", "religion", "medicine")
N_BRUTE_FORCE = 20
"""Candidates of each layer."""
N_FRESH_TEXTS = 200
"""Texts whose mean is taken for what a pick does, with as many of each prompt."""
SCHEMA = pl.Schema({
    "concept": pl.String(), "n_per_layer": pl.Int64(), "verdict": pl.String(), "layer": pl.Int64(), "feature": pl.Int64(),
    "factor": pl.String(), "n": pl.Int64(), "score": pl.Float64(), "score_low": pl.Float64(), "score_high": pl.Float64(),
    "fresh": pl.Float64(), "fresh_low": pl.Float64(), "fresh_high": pl.Float64(), "n_fresh": pl.Int64(),
})  # fmt: skip
"""n_per_layer: candidates of each layer, null where the experiment's settings say how many; score: as printed, over n prompts; fresh: over
n_fresh prompts that neither chose nor scored."""


def write_recommendations(workflow: Workflow, name: str, concepts: Sequence[str], configfile: Path, cores: int) -> None:
    """Fill NAME.csv with the rows (SCHEMA) of an experiment that was run, and NAME.parquet with the texts on fresh prompts."""
    file, texts_file = (FOLDER / f"{name}.{ending}" for ending in ("csv", "parquet"))
    rows = pl.read_csv(file, schema=SCHEMA) if file.exists() else pl.DataFrame(schema=SCHEMA)
    wanted = [*((concept, None) for concept in concepts), *((concept, N_BRUTE_FORCE) for concept in BRUTE_FORCE)]
    finished = set(rows.select("concept", "n_per_layer").iter_rows())
    for concept, n_per_layer in wanted:
        if (concept, n_per_layer) not in finished:
            row, texts = recommended(workflow, RecommendRequest(name, concept, n_per_layer, cores, configfile, None))
            rows = pl.concat([rows, pl.DataFrame([row], schema=SCHEMA)])
            if texts is not None:
                of_row = texts.select(pl.lit(concept).alias("concept"), pl.lit(n_per_layer, pl.Int64).alias("n_per_layer"), pl.all())
                keys = ["concept", "n_per_layer"]
                before = [pl.read_parquet(texts_file).join(of_row, on=keys, how="anti", nulls_equal=True)] if texts_file.exists() else []
                write_atomically(texts_file, pl.concat([*before, of_row]).write_parquet)
            write_text(file, rows.write_csv(float_precision=4))
            logging.info("%s", row)


def recommended(workflow: Workflow, question: RecommendRequest) -> tuple[dict[str, Any], pl.DataFrame | None]:
    """A row of SCHEMA, and scoring.COLUMNS of the fresh texts, unsteered ones among them; None where nothing is recommended."""
    recommendation = answer(workflow, question).recommendation
    row: dict[str, Any] = dict.fromkeys(SCHEMA) | {"concept": question.concept, "n_per_layer": question.n_per_layer}
    row["verdict"], choice = recommendation.verdict, recommendation.feature
    if choice is None:
        return row, None
    run = as_sweep(workflow, question.name)
    prompts = dict(islice(run.unused_prompts().items(), N_PROMPTS, None))
    option = {"kind": FEATURE, "layer": choice.layer, "name": choice.name, "factor": choice.factor}
    texts = scored_texts(run, question.concept, choice.layer, pl.DataFrame([option]), prompts, N_FRESH_TEXTS)
    fresh = scored(option, texts, run.sweep.selection).score
    row |= {"layer": choice.layer, "feature": int(choice.name), "factor": choice.factor, "n": choice.score.n, "n_fresh": fresh.n}
    row |= interval_columns("score", choice.score.mean, choice.score.interval)
    return row | interval_columns("fresh", fresh.mean, fresh.interval), texts


DEMONSTRATED = "the sea"
PROMPTS = ("People often say that", "My neighbour told me that", "Last week we learned that")
"""From docs/plan.md, like the concept."""
DEMONSTRATION = pl.Schema(
    {
        "layer": pl.Int64(),
        "feature": pl.Int64(),
        "factor": pl.String(),
        "prompt": pl.String(),
        "unsteered": pl.String(),
        "steered": pl.String(),
    }
)


def demonstrated(run: Run, recommendations: Path) -> pl.DataFrame:
    """DEMONSTRATION rows: the model's first text of each prompt, unsteered and steered by what `recommend` says of the concept."""
    pick = pl.read_csv(recommendations, schema=SCHEMA).filter(pl.col("n_per_layer").is_null(), concept=DEMONSTRATED).row(0, named=True)
    texts = steer(run.model(), run.sae(pick["layer"]), [pick["feature"]], [0, pick["factor"]], PROMPTS)
    columns = {name: texts.filter((pl.col("factor") == 0) == (name == "unsteered"))["text"] for name in ("unsteered", "steered")}
    rows = pl.DataFrame({"prompt": PROMPTS, **columns}).with_columns(
        **{name: pl.lit(pick[name]) for name in ("layer", "feature", "factor")}
    )
    return rows.select(DEMONSTRATION.names()).cast(DEMONSTRATION)
