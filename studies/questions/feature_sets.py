"""Does steering with several features at once do better than with one, and do two concepts disturb one another?

Sets and factors are chosen on the experiment's prompts and scored on the other prompts of its file. The direction of a set is the sum of
its decoder rows at unit norm, so that a set is as long as a single feature and has as many factors to choose from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl
import torch

from saesteer.core.tables import FEATURES
from saesteer.engine.generations import features_addition
from saesteer.engine.interventions import Addition
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae
from saesteer.report.exports.measured import Form, rated_texts
from saesteer.run import Run
from studies.questions.summaries.feature_sets import BY_ACTIVATION, GREEDY
from studies.questions.tables import CONCEPT_PAIRS, FEATURE_SETS

POOL = 6
"""Features that sets are formed of: those with the concept's label and the largest max activations."""
LARGEST = 5
"""Features of the largest set."""
NEIGHBOURS = (-2, -1, 1, 2)
"""A concept is steered to together with the concepts at these places beside it, by name and round the end."""
Members = tuple[int, ...]
"""Features, ascending."""
Means = Mapping[tuple[Members, str], float | None]
"""(set, factor) -> mean judge score; None: no text could be rated."""


@dataclass(frozen=True)
class Chosen:
    """A set at the factor of its highest mean score."""

    rule: str
    members: Members
    factor: str


def chosen_sets(pool: Sequence[int], scores: Callable[[Sequence[Members]], Means]) -> list[Chosen]:
    """Sets of 1 to LARGEST features of a concept's pool, which is in the order of max activations. GREEDY begins with the best single
    feature and adds the one with which the set scores highest; BY_ACTIVATION takes the first ones. Ties go to what comes first: in the
    pool, of factors the smaller one. `scores` lists each set's factors in ascending order."""
    sizes = range(1, min(LARGEST, len(pool)) + 1)
    by_activation = [_best(BY_ACTIVATION, scores([_set(pool[:size])])) for size in sizes]
    greedy: list[Chosen] = []
    members: Members = ()
    for _ in sizes:
        greedy.append(_best(GREEDY, scores([_set([*members, one]) for one in pool if one not in members])))
        members = greedy[-1].members
    return [*greedy, *by_activation]


def _set(features: Sequence[int]) -> Members:
    return tuple(sorted(features))


def _best(rule: str, means: Means) -> Chosen:
    members, factor = max(means, key=lambda cell: -1.0 if (score := means[cell]) is None else score)
    return Chosen(rule, members, factor)


def set_addition(sae: Sae, members: Members) -> Addition:
    """The sum of decoder rows, (d_model,), at unit norm: at factor f it adds f × a_max times that."""
    norm = float(sae.W_dec[list(members)].sum(0).norm())
    return features_addition(sae, dict.fromkeys(members, 1 / norm))


def tables_of_sets(run: Run) -> dict[str, pl.DataFrame]:
    """FEATURE_SETS and CONCEPT_PAIRS of an experiment's layers."""
    lm = run.model()
    sets: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    labelled = run.summary(FEATURES).drop_nulls(["concept", "max_activation"])
    for layer in run.layers:
        sae, of_layer = run.sae(layer), labelled.filter(layer=layer).sort("max_activation", "feature", descending=[True, False])
        pools = {str(concept): rows["feature"].head(POOL).to_list() for (concept,), rows in of_layer.group_by("concept")}
        singles = {}
        for concept, pool in sorted(pools.items()):
            chosen = chosen_sets(pool, partial(_chosen_on, run, lm, sae, concept))
            singles[concept] = chosen[0]
            sets += _reported(run, lm, sae, concept, chosen, len(pool))
        pairs += list(_pairs(run, lm, sae, singles))
    return {FEATURE_SETS.name: pl.DataFrame(sets, FEATURE_SETS.schema), CONCEPT_PAIRS.name: pl.DataFrame(pairs, CONCEPT_PAIRS.schema)}


def _chosen_on(run: Run, lm: LanguageModel, sae: Sae, concept: str, sets: Sequence[Members]) -> Means:
    """Mean scores of sets at every factor on the experiment's prompts."""
    factors = [factor for factor in run.sweep.sweep.factors if float(factor) > 0]
    named = {f"{number}": members for number, members in enumerate(sets)}
    additions = {name: set_addition(sae, members) for name, members in named.items()}
    forms = [Form(name, additions[name], float(factor)) for name in named for factor in factors]
    means = _means(run, lm, sae, forms, concept, run.prompts())
    return {(members, factor): means[name, repr(float(factor))] for name, members in named.items() for factor in factors}


def _reported(run: Run, lm: LanguageModel, sae: Sae, concept: str, chosen: Sequence[Chosen], n_pool: int) -> Iterator[dict[str, Any]]:
    """FEATURE_SETS rows: scores on the prompts that chose nothing."""
    forms = [Form(f"{number}", set_addition(sae, of.members), float(of.factor)) for number, of in enumerate(chosen)]
    means = _means(run, lm, sae, forms, concept, run.unused_prompts())
    for form, of in zip(forms, chosen, strict=True):
        row = {"layer": sae.meta.layer, "concept": concept, "rule": of.rule, "size": len(of.members), "n_pool": n_pool}
        yield row | {"features": "+".join(map(str, of.members)), "factor": of.factor, "score": means[form.name, repr(form.factor)]}


def _pairs(run: Run, lm: LanguageModel, sae: Sae, singles: Mapping[str, Chosen]) -> Iterator[dict[str, Any]]:
    """CONCEPT_PAIRS rows: each concept's single feature alone, and with another's, both at the factors that are best alone."""
    concepts, prompts = sorted(singles), run.unused_prompts()
    for place, concept in enumerate(concepts):
        others = list(dict.fromkeys(concepts[(place + step) % len(concepts)] for step in NEIGHBOURS))
        strength = _strength(singles[concept])
        forms = [Form(concept, features_addition(sae, strength), 1.0)]
        forms += [Form(of, features_addition(sae, strength | _strength(singles[of])), 1.0) for of in others if of != concept]
        means = _means(run, lm, sae, forms, concept, prompts)
        for form in forms[1:]:
            row = {"layer": sae.meta.layer, "concept": concept, "other": form.name}
            yield row | {"alone": means[concept, "1.0"], "together": means[form.name, "1.0"]}


def _strength(single: Chosen) -> dict[int, float]:
    (feature,) = single.members
    return {feature: float(single.factor)}


@torch.no_grad()
def _means(
    run: Run, lm: LanguageModel, sae: Sae, forms: Sequence[Form], concept: str, prompts: Mapping[str, str]
) -> dict[tuple[str, str], float | None]:
    """(name of a form, its factor) -> mean judge score over prompts, a text each; texts that could not be rated are left out."""
    texts = rated_texts(run, lm, sae, forms, concept, len(prompts), prompts)
    means = texts.group_by("method", "factor").agg(pl.col("judge_score").cast(pl.Float64).mean())
    return {(method, factor): score for method, factor, score in means.rows()}
