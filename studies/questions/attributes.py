"""Does what holds for topics hold for a text's other attributes, such as its person and tense (text_attributes.ATTRIBUTES)?

Stretches of the labelled texts, as long as a steered text, have an attribute or lack it, in pairs of the same topic. Those of even rows
make a pool of the features that tell them best apart, and the difference of means; those of odd rows report the AUROC. The experiment's
prompts choose each direction's factor, the other prompts of its file report. A steered text is rated 2 where it has the attribute,
otherwise 0; its score is the harmonic mean of that and the judge's fluency rating.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.analysis.score import harmonic_mean
from saesteer.core.tables import FEATURES
from saesteer.core.uncertainty import RATINGS, SHARES, Confidence, mean_columns, of_differences
from saesteer.engine.directions import decoder_cosines
from saesteer.engine.generations import feature_addition
from saesteer.engine.interventions import Addition, Intervention, Nothing
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae
from saesteer.methods.fit.means import difference_of_means, diffmean
from saesteer.methods.fit.problem import Problem, Text, Tokens
from saesteer.methods.fit.sae_features import auroc, ranked, scored, with_auroc
from saesteer.report.exports.measured import Form, rated_texts
from saesteer.run import Run
from saesteer.settings.methods import FactorGrids
from saesteer.settings.recipes import Training
from saesteer.world.judges import WorldJudge
from studies.questions.labelled_texts import texts_by_topic
from studies.questions.summaries.attributes import BEST, BY_COLUMN, DIFFMEAN, DIFFMEAN_LAST, RANDOM, RULES, UNSTEERED
from studies.questions.tables import ATTRIBUTES
from studies.questions.text_attributes import ATTRIBUTES as WORDS
from studies.questions.text_attributes import has, paired

POOL = 12
"""Features from which rules pick: those of highest AUROC on the training stretches."""
N_CHOOSING = 2
"""Texts of each prompt that choose factors."""
LARGEST, FEWEST = 200, 24
"""Stretches with an attribute, and without it, in each half, at most and at least: attributes with fewer are left out. The least is what
questions had on another model, fixed before anything was steered."""
DIFFMEAN_FACTORS = FactorGrids().addition
"""P4's, for what is added at every position."""
OTHER_LANGUAGES = ("french", "numbers", "code")
"""Topics of the grammar that have another grammar, by which texts would differ instead of by the attribute."""


def largest_projections(tokens: Tokens, direction: Float[Tensor, " d_model"]) -> Float[Tensor, " text"]:
    """Of each text the largest projection of a residual on a direction."""
    return torch.stack([(residual @ direction).amax() for residual in tokens.by_text()])


def stretches(texts: pl.DataFrame, lm: LanguageModel, n_tokens: int) -> pl.DataFrame:
    """concept, start, ids (up to the end) and text of every whole stretch of n_tokens tokens of `texts_by_topic`, from the second token."""
    rows = [
        (concept, start, ids[: start + n_tokens])
        for concept, ids in texts.select("concept", "token_ids").iter_rows()
        for start in range(1, len(ids) - n_tokens + 1, n_tokens)
    ]
    tokens = [ids[start:] for _, start, ids in rows]
    decoded = lm.tokenizer.batch_decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    frame = pl.DataFrame(rows, {"concept": pl.String, "start": pl.UInt16, "ids": pl.List(pl.UInt32)}, orient="row")
    return frame.with_columns(text=pl.Series(decoded, dtype=pl.String))


def chosen_factors(rated: pl.DataFrame) -> dict[str, float]:
    """Option -> the factor of its highest mean score; ties: the smallest. In the order of that score, ties as the options come. rated:
    option, factor, score."""
    means = rated.group_by("option", "factor", maintain_order=True).agg(pl.col("score").mean()).drop_nulls("score")
    placed = means.with_columns(place=pl.int_range(pl.len()).min().over("option"))
    best = placed.sort("score", "factor", "place", descending=[True, False, False]).unique("option", keep="first", maintain_order=True)
    return dict(best.sort("score", "place", descending=[True, False]).select("option", "factor").iter_rows())


def picks(pool: pl.DataFrame, by_score: Sequence[str]) -> dict[str, str]:
    """Rule -> the feature of the pool that it picks, ties to the lowest number; brute force takes the first of `by_score`."""
    by_column = {rule: str(ranked(pool, column)["feature"][0]) for column, rule in BY_COLUMN.items()}
    features = set(pool["feature"].cast(pl.String))
    return by_column | {BEST: next(option for option in by_score if option in features)}


def compared(reported: pl.DataFrame, pool: Sequence[str], picked: Mapping[str, str], intervals: Confidence) -> Iterator[dict[str, Any]]:
    """A row a rule: means over prompts with their intervals, and differences paired by prompt. reported: option, prefix_id, share (whether
    the text has the attribute), fluency, score; picked: rule -> option. The random pick is the mean over the pool."""
    names = ("share", "fluency", "score")
    of_pool = reported.filter(pl.col("option").is_in(list(pool))).group_by("prefix_id").agg(pl.col(names).mean())
    by_rule = {rule: reported.filter(option=option) for rule, option in picked.items()} | {RANDOM: of_pool}
    scores = {rule: rows.select("prefix_id", other="score") for rule, rows in by_rule.items()}
    for rule in filter(by_rule.__contains__, RULES):
        rows = by_rule[rule].sort("prefix_id").drop_nulls("score")
        row: dict[str, Any] = {"rule": rule, "n": rows.height}
        for name, scale in (("share", SHARES), ("fluency", RATINGS), ("score", RATINGS)):
            row |= mean_columns(name, rows[name].to_numpy(), intervals, scale=scale)
        for name, other in (("above_random", RANDOM), ("above_diffmean", DIFFMEAN)):
            beside = rows.join(scores[other], on="prefix_id", maintain_order="left").drop_nulls("other")
            differences = (beside["score"] - beside["other"]).to_numpy() if rule != other else np.empty(0)
            row |= mean_columns(name, differences, intervals, scale=of_differences(RATINGS))
        yield row


def rated(texts: pl.DataFrame, attribute: str, judge: WorldJudge) -> pl.DataFrame:
    """GENERATIONS rows with mean_nll -> option, factor, prefix_id, share, fluency and score; a blank text has nothing, and no fluency."""
    written = texts.filter(pl.col("text").is_not_null())
    blank = pl.col("text").str.strip_chars() == ""
    ids = judge.read(written["text"].to_list())
    fluency = [judge.fluency(of, loss) for of, loss in zip(ids, written["mean_nll"], strict=True)]
    share = [float(has(attribute, text)) for text in written["text"]]
    rows = written.with_columns(share=pl.Series(share, dtype=pl.Float64), fluency=pl.Series(fluency, dtype=pl.Float64))
    both = rows.with_columns(fluency=pl.when(blank).then(0.0).otherwise("fluency"), rating=RATINGS.high * pl.col("share"))
    factor = pl.col("factor").cast(pl.Float64)
    return both.select("prefix_id", "share", "fluency", option="method", factor=factor, score=harmonic_mean(["rating", "fluency"]))


@dataclass(frozen=True)
class _Attribute:
    """An attribute at a layer."""

    run: Run
    lm: LanguageModel
    judge: WorldJudge
    train: Problem
    test: Problem

    @property
    def sae(self) -> Sae:
        return self.train.sae

    @cached_property
    def direction(self) -> torch.Tensor:  # (d_model,), unit norm
        return difference_of_means(self.train.positive_tokens, self.train.negative_tokens)

    @cached_property
    def pool(self) -> pl.DataFrame:
        """FEATURES rows of the pool, with auroc and cosine."""
        rows = scored(with_auroc(self.train).drop_nulls("output_score"), "cosine", torch.tensor(decoder_cosines(self.sae, self.direction)))
        return ranked(rows, "auroc").head(POOL)

    def options(self) -> dict[str, tuple[Intervention, Sequence[float]]]:
        """Option (a feature's number, or one without a feature) -> what it does at factor 1, and its factors, ascending."""
        factors = [float(factor) for factor in self.run.sweep.sweep.factors if float(factor) > 0]
        every: dict[str, tuple[Intervention, Sequence[float]]] = {
            str(feature): (feature_addition(self.sae, feature), factors) for feature in self.pool["feature"]
        }
        every[DIFFMEAN] = diffmean(self.train), [float(factor) for factor in DIFFMEAN_FACTORS]
        return every | {DIFFMEAN_LAST: (Addition(self.direction, None, "last"), factors)}

    def rated(self, forms: Sequence[Form], prompts: Mapping[str, str], n_each: int = 1) -> pl.DataFrame:
        """Of n_each texts of each prompt."""
        texts = rated_texts(self.run, self.lm, self.sae, forms, None, n_each * len(prompts), prompts)
        return rated(texts, self.train.concept, self.judge)

    def aurocs(self) -> dict[str, float]:
        """Option -> AUROC of the test stretches, by their largest activation or projection."""
        of_features = auroc(*self.test.largest_activations)
        groups = (self.test.positive_tokens, self.test.negative_tokens)
        largest = [largest_projections(tokens, self.direction)[:, None] for tokens in groups]
        of_direction = auroc(largest[0], largest[1]).item()
        features = {str(feature): of_features[feature].item() for feature in self.pool["feature"]}
        mean = float(np.mean(list(features.values())))
        return features | {RANDOM: mean, DIFFMEAN: of_direction, DIFFMEAN_LAST: of_direction}

    def rows(self) -> Iterator[dict[str, Any]]:
        """ATTRIBUTES rows."""
        options, aurocs = self.options(), self.aurocs()
        tried = [Form(name, does, factor) for name, (does, factors) in options.items() for factor in factors]
        factor_of = chosen_factors(self.rated(tried, self.run.prompts(), N_CHOOSING)) | {UNSTEERED: 0.0}
        picked = picks(self.pool, list(factor_of)) | {option: option for option in (DIFFMEAN, DIFFMEAN_LAST, UNSTEERED)}
        forms = [Form(name, options[name][0] if name in options else Nothing(), factor) for name, factor in factor_of.items()]
        reported = self.rated(forms, self.run.unused_prompts())
        for row in compared(reported, [str(feature) for feature in self.pool["feature"]], picked, self.run.sweep.selection):
            option = picked.get(row["rule"], RANDOM)
            feature, factor = int(option) if option.isdecimal() else None, factor_of.get(option)
            row |= {"feature": feature, "factor": None if factor is None else f"{factor:g}", "auroc": aurocs.get(option)}
            yield {"layer": self.sae.meta.layer, "attribute": self.train.concept, "n_having": len(self.train.positive)} | row


def _problem(lm: LanguageModel, sae: Sae, attribute: str, features: pl.DataFrame, groups: Sequence[pl.DataFrame]) -> Problem:
    """Stretches with the attribute and without it, in what stands before them."""
    having, lacking = (tuple(Text(ids, start) for ids, start in group.select("ids", "start").iter_rows()) for group in groups)
    return Problem(lm, sae, sae.meta.layer, attribute, having, lacking, features, 0, Training({}))


@torch.no_grad()
def attributes(run: Run, names: Sequence[str] = tuple(WORDS)) -> pl.DataFrame:
    """ATTRIBUTES of an experiment's layers; of an attribute that is left out one row, which counts its training stretches."""
    lm, judge, rows = run.model(), run.world_judge(), list[dict[str, Any]]()
    labelled = texts_by_topic(pl.read_parquet(run.file("texts")), run.topics()).filter(~pl.col("concept").is_in(OTHER_LANGUAGES))
    halves = [stretches(labelled[half::2], lm, run.steering.sampling.max_new_tokens) for half in (0, 1)]
    for layer in run.layers:
        sae, of_layer = run.sae(layer), run.summary(FEATURES).filter(layer=layer)
        for attribute in names:
            train, test = (paired(half, attribute, LARGEST) for half in halves)
            n_having = train[0].height
            if min(n_having, test[0].height) < FEWEST:
                rows.append({"layer": layer, "attribute": attribute, "rule": UNSTEERED, "n_having": n_having, "n": 0})
                continue
            problems = (_problem(lm, sae, attribute, of_layer, groups) for groups in (train, test))
            rows += _Attribute(run, lm, judge, *problems).rows()
    return pl.DataFrame(rows, ATTRIBUTES.schema)
