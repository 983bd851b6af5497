"""Each method's score against what it breaks, and its score at equal cost."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import (
    COMPARED_CONCEPTS,
    DAMAGE,
    GENERATIONS,
    METHOD_DAMAGE,
    METHOD_EQUAL_COST,
    METHOD_EQUAL_COST_SCORES,
    METHOD_SUMMARIES,
    of_fits,
)
from saesteer.run import Run
from saesteer.settings import Comparison, Experiment, OracleJudge
from saesteer.steps.damage import ordinary_texts_pin
from saesteer.summaries.summary import Summary


def exists(experiment: Experiment) -> bool:
    """Whether there are ordinary texts on which it can be measured what steering breaks."""
    return isinstance(experiment, Comparison) and ordinary_texts_pin(experiment) is not None


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.methods.compare.damage import method_damage
    from saesteer.methods.compare.equal_cost import equal_cost, equal_cost_scores
    from saesteer.methods.compare.layers import at_every_layer

    settings = run.comparison.methods
    halves, choices, methods = (run.summary(METHOD_SUMMARIES[name]) for name in ("method_halves", "method_choices", "methods"))
    rows = at_every_layer(run.rows(DAMAGE), run.experiment.layers)
    scores = equal_cost_scores(rows, halves, choices, settings)
    return {
        METHOD_DAMAGE.name: method_damage(rows, _other_topics(run, choices), choices, methods, settings),
        METHOD_EQUAL_COST_SCORES.name: scores,
        METHOD_EQUAL_COST.name: equal_cost(scores, methods, settings),
    }


def _other_topics(run: Run, choices: pl.DataFrame) -> pl.DataFrame:
    """How much the texts at the chosen factors are about other topics; no rows where the judge is not a world's."""
    keys = list(DAMAGE.keys)
    if not isinstance(run.comparison.judge, OracleJudge):
        return choices.select(keys).clear().with_columns(other_rating=pl.lit(None, pl.Float64))
    from saesteer.methods.compare.layers import at_every_layer
    from saesteer.world.rating import other_ratings

    concepts = run.summary(COMPARED_CONCEPTS).select("concept_id", "concept")
    texts = at_every_layer(of_fits(run.rows(GENERATIONS)), run.experiment.layers)
    texts = texts.join(choices.select(keys), on=keys, how="semi")
    texts = texts.join(concepts, on="concept_id", how="left", maintain_order="left")
    return texts.select(*keys, other_ratings(texts, run.world_judge(), run.topics()))


SUMMARY = Summary((METHOD_DAMAGE, METHOD_EQUAL_COST_SCORES, METHOD_EQUAL_COST), exists, compute)
