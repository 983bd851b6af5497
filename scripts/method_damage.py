"""Each method's score against what it breaks."""

import polars as pl
from common import open_job

from saesteer.core.store import read_rows
from saesteer.core.tables import (
    ASKED_CONCEPTS,
    DAMAGE,
    DAMAGE_SUMMARIES,
    GENERATIONS,
    METHOD_SUMMARIES,
    of_fits,
    read_summary,
    write_summary,
)
from saesteer.methods.compare.damage import method_damage
from saesteer.methods.compare.layers import at_every_layer
from saesteer.settings import OracleJudge

job = open_job(snakemake)
choices, methods = (read_summary(METHOD_SUMMARIES[name], job.input(name)) for name in ("method_choices", "methods"))
keys = list(DAMAGE.keys)


def other_topics() -> pl.DataFrame:
    """How much the texts at the chosen factors are about other topics; no rows where the judge is another than the oracle."""
    if not isinstance(job.experiment.judge, OracleJudge):
        return choices.select(keys).clear().with_columns(other_rating=pl.lit(None, pl.Float64))
    from saesteer.world.rating import other_ratings

    concepts = read_summary(ASKED_CONCEPTS, job.input("asked_concepts")).select("concept_id", "concept")
    texts = at_every_layer(of_fits(read_rows(GENERATIONS, job.inputs["generations"])), job.experiment.layers)
    texts = texts.join(choices.select(keys), on=keys, how="semi")
    texts = texts.join(concepts, on="concept_id", how="left", maintain_order="left")
    return texts.select(*keys, other_ratings(texts, job.world_judge(), job.topics()))


damage = at_every_layer(read_rows(DAMAGE, job.inputs["damage"]), job.experiment.layers)
table = method_damage(damage, other_topics(), choices, methods, job.experiment.methods)
write_summary(DAMAGE_SUMMARIES["method_damage"], table, job.outputs["table"])
