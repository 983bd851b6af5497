"""Each method's damage to ordinary text at the factors that were chosen, beside its score: what steering costs, and what it buys."""

import polars as pl

from saesteer.core.uncertainty import RATINGS
from saesteer.methods.compare.means import mean_over_concepts
from saesteer.methods.compare.protocol import FIT, UNSTEERED
from saesteer.methods.compare.tables import METHOD_DAMAGE
from saesteer.settings.methods import MethodSettings
from saesteer.settings.registry import method

_LOST = ("loss_rise", "divergence")
_MEASURES = (*_LOST, "other_rating")
_TAKEN_OVER = ("title", "family", "score", "score_low", "score_high")


def method_damage(
    damage: pl.DataFrame, other_ratings: pl.DataFrame, choices: pl.DataFrame, methods: pl.DataFrame, settings: MethodSettings
) -> pl.DataFrame:
    """DAMAGE, METHOD_CHOICES and METHODS_TABLE -> METHOD_DAMAGE. A concept's damage is the mean over the halves reported on, each at the
    factor chosen for it; where the method abstains nothing is steered and nothing lost, as its score is the unsteered text's. `others` has
    the other_rating of texts, with the keys FIT and factor; it is empty where other concepts are not rated."""
    columns = ["loss_rise", "divergence", "unsteered_loss"]
    measured = damage.with_columns(loss_rise=pl.col("loss") - pl.col("unsteered_loss")).select(*FIT, "factor", *columns)
    rows = choices.select(*FIT, "factor", "abstains").join(measured, on=[*FIT, "factor"], how="left")
    rows = rows.with_columns(pl.when("abstains").then(0.0).otherwise(name).alias(name) for name in _LOST)
    concepts = rows.group_by(FIT).agg(pl.col(columns).mean()).join(_other_ratings(other_ratings, choices), on=FIT, how="left").sort(FIT)
    lines = []
    for group in concepts.partition_by("layer", "method", maintain_order=True):
        layer, key = group.select("layer", "method").row(0)
        line = {"layer": layer, "method": key, "n": group["loss_rise"].count(), "confidence": settings.confidence}
        for name in _MEASURES:
            line |= mean_over_concepts(name, group[name], settings, scale=RATINGS if name == "other_rating" else None)
        lines.append(line)
    schema = {name: dtype for name, dtype in METHOD_DAMAGE.schema.items() if name not in (*_TAKEN_OVER, "unsteered_loss")}
    table = pl.DataFrame(lines, schema=schema)
    unsteered = damage.group_by("layer").agg(pl.col("unsteered_loss").first())
    table = table.join(methods.select("layer", "method", *_TAKEN_OVER), on=["layer", "method"], how="left")
    return table.join(unsteered, on="layer", how="left").select(list(METHOD_DAMAGE.columns)).sort(METHOD_DAMAGE.keys)


def _other_ratings(other_ratings: pl.DataFrame, choices: pl.DataFrame) -> pl.DataFrame:
    """FIT keys and other_rating: mean over a fit's texts at each chosen factor, then over the choices; where the method abstains the
    unsteered texts'."""
    of_factors = other_ratings.group_by(*FIT, "factor").agg(pl.col("other_rating").mean())
    unsteered = of_factors.filter(method=method(UNSTEERED).key).select("layer", "concept_id", unsteered="other_rating")
    rows = choices.select(*FIT, "factor", "abstains").join(of_factors, on=[*FIT, "factor"], how="left")
    rows = rows.join(unsteered, on=["layer", "concept_id"], how="left")
    return rows.group_by(FIT).agg(pl.when("abstains").then("unsteered").otherwise("other_rating").mean().alias("other_rating"))
