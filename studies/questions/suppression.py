"""Which way of steering away from a concept lowers how much texts are about it, on prompts that evoke it, and at what cost?

Prompts are first sentences of labelled texts on the concept. The first N_CHOOSING choose each way's feature and strength by the score
for less of the concept (analysis.suppression), up to N_REPORTING others report. What edits a feature is repeated, as chosen, with a feature
that has nothing to do with the concept (`controls`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from torch.nn.functional import normalize

from saesteer.analysis.recommendation import N_PER_LAYER
from saesteer.analysis.suppression import controls, scored_by_absence
from saesteer.core.files import text_id
from saesteer.core.tables import FEATURES
from saesteer.engine.directions import difference_of_means
from saesteer.engine.generations import feature_edit
from saesteer.engine.hook_points import sae_hook_point
from saesteer.engine.interventions import ActivationEdit, Addition, ConditionalClamp, Intervention, Nothing, Projection
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae
from saesteer.report.evoking import beginnings
from saesteer.report.exports.measured import Form, rated_texts
from saesteer.run import Run
from studies.questions.labelled_texts import LARGEST, chosen_texts, texts_by_topic
from studies.questions.summaries.suppression import OF_A_FEATURE
from studies.questions.tables import SUPPRESSION

N_CHOOSING, N_REPORTING, FEWEST = 10, 40, 10
"""Prompts that choose, those that report at most, and at least."""
UNSTEERED = "unsteered"


@dataclass(frozen=True)
class Option:
    """A way of steering away with one feature (None: with no single one) at one strength."""

    way: str
    feature: int | None
    factor: float


def best_options(rated: pl.DataFrame) -> list[Option]:
    """Each way's option with the highest mean score; ties go to the weaker factor, then to the smaller feature. rated: way, feature, factor
    and score (null: not rated)."""
    means = rated.group_by("way", "feature", "factor").agg(pl.col("score").mean()).drop_nulls("score")
    ordered = means.sort("way", "score", pl.col("factor").abs(), "feature", descending=[False, True, False, False])
    best = ordered.unique("way", keep="first", maintain_order=True)
    return [Option(*row) for row in best.select("way", "feature", "factor").iter_rows()]


def edit(sae: Sae, way: str, feature: int, max_activation: float) -> Intervention:
    """A way of OF_A_FEATURE with a feature."""
    if way == "clamped below 0":
        return ConditionalClamp(torch.tensor([feature]), torch.tensor([max_activation]))
    return feature_edit(sae, feature, {"ablated": "ablation", "projected out": "projection"}.get(way, "addition"))


def factors_of(way: str, factors: Sequence[float]) -> Sequence[float]:
    """The factors of a way: minus the experiment's where it has a strength, otherwise 1."""
    has_strength = way in ("factor below 0", "clamped below 0", "DiffMean subtracted")
    return [-factor for factor in factors if factor > 0] if has_strength else [1.0]


@dataclass(frozen=True)
class _Steered:
    """What steering away from a concept at a layer is made of."""

    run: Run
    lm: LanguageModel
    sae: Sae
    concept: str
    features: pl.DataFrame
    """FEATURES of the layer: near, fires_on as of recommendation.candidates."""
    direction: torch.Tensor  # (d_model,), unit norm: the difference of means

    def interventions(self) -> Iterator[tuple[str, int | None, Intervention]]:
        """(way, feature, intervention)."""
        labelled = self.features.filter(concept=self.concept).sort("max_activation", "feature", descending=[True, False])
        for row in labelled.head(N_PER_LAYER).iter_rows(named=True):
            yield from ((way, row["feature"], edit(self.sae, way, row["feature"], row["max_activation"])) for way in OF_A_FEATURE)
        every = torch.tensor(labelled["feature"].to_list())
        yield "all ablated", None, ActivationEdit(every, torch.zeros(len(every)))
        yield "DiffMean subtracted", None, Addition(self.direction, None, "last")
        yield "DiffMean projected out", None, Projection(self.direction)

    def rated(self, options: Mapping[str, tuple[Intervention, float]], prompts: Sequence[str]) -> pl.DataFrame:
        """Ratings of the texts of interventions at a factor (by name) and of the unsteered model, and the score for less of the concept."""
        forms = [Form(name, intervention, factor) for name, (intervention, factor) in options.items()]
        by_id = {text_id(prompt): prompt for prompt in prompts}
        texts = rated_texts(self.run, self.lm, self.sae, [Form(UNSTEERED, Nothing(), 0.0), *forms], self.concept, len(by_id), by_id)
        return scored_by_absence(texts).select("method", *(pl.col(name).cast(pl.Float64) for name in _RATINGS), score="judge_score")

    def chosen(self, prompts: Sequence[str]) -> dict[str, tuple[Option, Intervention]]:
        """Way -> the option that scores highest, and what it does."""
        factors = [float(factor) for factor in self.run.sweep.sweep.factors]
        every = [(Option(way, of, factor), does) for way, of, does in self.interventions() for factor in factors_of(way, factors)]
        rated = self.rated({str(number): (does, option.factor) for number, (option, does) in enumerate(every)}, prompts)
        options = pl.DataFrame([{"method": str(number), **vars(option)} for number, (option, _) in enumerate(every)], schema=_OPTION)
        does_of = dict(every)
        return {option.way: (option, does_of[option]) for option in best_options(options.join(rated, on="method"))}

    def controls(self, options: Mapping[str, tuple[Option, Intervention]]) -> Iterator[tuple[str, tuple[Intervention, float]]]:
        """Of each way that edits a feature, the same with the control of the feature that was chosen."""
        for way in OF_A_FEATURE:
            if way in options:
                option, picked = options[way][0], self.features.filter(feature=options[way][0].feature)
                for row in self.features.join(controls(self.features, picked, self.concept), on=["layer", "feature"]).iter_rows(named=True):
                    yield f"control of {way}", (edit(self.sae, way, row["feature"], row["max_activation"]), option.factor)

    def rows(self, choosing: Sequence[str], reporting: Sequence[str]) -> Iterator[dict[str, Any]]:
        """SUPPRESSION rows of a concept."""
        chosen = self.chosen(choosing)
        reported = {way: (does, option.factor) for way, (option, does) in chosen.items()} | dict(self.controls(chosen))
        means = self.rated(reported, reporting).group_by("method").mean()
        by_name = {row.pop("method"): row for row in means.rows(named=True)}
        before = {f"{name}_before": value for name, value in by_name[UNSTEERED].items()}
        for way, (option, _) in chosen.items():
            row = {"layer": self.sae.meta.layer, "concept": self.concept, "way": way, "feature": option.feature}
            row |= {"factor": str(option.factor), "n": len(reporting)} | before | by_name[way]
            yield row | {"concept_rating_control": by_name.get(f"control of {way}", {}).get("concept_rating")}


_OPTION = {"method": pl.String, "way": pl.String, "feature": pl.UInt32, "factor": pl.Float64}
_RATINGS = ("concept_rating", "fluency_rating")


def suppression(run: Run) -> pl.DataFrame:
    """SUPPRESSION of an experiment's layers."""
    lm, topics, labelled, rows = run.model(), run.topics(), pl.read_parquet(run.file("texts")), list[dict[str, Any]]()
    features = run.summary(FEATURES).with_columns(fires_on=pl.lit(None, pl.String), near=False)
    texts = texts_by_topic(labelled[1::2], topics)  # no text gives both prompts and the difference of means
    for layer in run.layers:
        sae, of_layer = run.sae(layer), features.filter(layer=layer).drop_nulls("max_activation")
        for concept in sorted(of_layer["concept"].drop_nulls().unique()):
            prompts = beginnings(labelled[::2], topics.index(concept))[: N_CHOOSING + N_REPORTING]
            having, lacking = (of["token_ids"].to_list() for of in chosen_texts(texts, concept, LARGEST))
            if len(prompts) < N_CHOOSING + FEWEST or not having:
                continue
            (direction,) = difference_of_means(lm, [sae_hook_point(lm, layer, sae.meta)], having, lacking)
            steered = _Steered(run, lm, sae, concept, of_layer, normalize(direction.to(sae.W_dec), dim=0))
            rows += steered.rows(prompts[:N_CHOOSING], prompts[N_CHOOSING:])
    return pl.DataFrame(rows, SUPPRESSION.schema)
