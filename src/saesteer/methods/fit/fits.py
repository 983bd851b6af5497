"""Fitting methods: the intervention of each method and concept at a layer, what it changes, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.core.tables import FITS
from saesteer.engine.conditional import switched
from saesteer.engine.interventions import Addition, CodeEdit, Intervention, PromptText, kind_of, packed
from saesteer.engine.models import MIN_ROWS, LanguageModel
from saesteer.engine.saes import Sae
from saesteer.engine.sites import reading
from saesteer.engine.steering import steering_of
from saesteer.methods.fit.problem import Abstains, Approximator, Problem
from saesteer.methods.fit.tokenised import n_prefix_tokens, training_texts
from saesteer.methods.fit.training import Trained
from saesteer.settings.methods import MethodSettings
from saesteer.settings.recipes import Training
from saesteer.settings.registry import METHODS, Method

ALGORITHM_VERSION = 2

_TRAINING = ("learning_rate", "n_epochs", "loss_before", "loss_after")
"""Columns of FITS that are fields of `Trained`."""


def fit_of(row: Method) -> Callable[[Problem], Intervention | Trained]:
    """The function that fits a method: imported only where it is called, since most need torch."""
    fit: Callable[[Problem], Intervention | Trained] = getattr(import_module(row.module), row.fitted_by.rpartition(".")[2])
    return fit


def intervention_of(made: Intervention | Trained) -> Intervention:
    """What a method's fit steers with."""
    return made.intervention if isinstance(made, Trained) else made


@dataclass(frozen=True)
class FitInputs:
    """What the fits of one layer are made from, for all concepts."""

    lm: LanguageModel
    sae: Sae
    layer: int
    concepts: pl.DataFrame  # ASKED_CONCEPTS
    texts: pl.DataFrame  # CONCEPT_TEXTS
    prompts: pl.DataFrame  # STEERING_PROMPTS
    features: pl.DataFrame  # FEATURES rows of the layer
    effects: Approximator | None
    vectors: Mapping[str, Tensor]  # concept -> vector trained elsewhere
    training: Training
    settings: MethodSettings


def problems_of(inputs: FitInputs) -> dict[str, Problem]:
    """concept_id -> the problem that each method is given."""
    return {concept_id: _problem(inputs, concept_id, concept, label) for concept_id, concept, label in inputs.concepts.iter_rows()}


def _problem(inputs: FitInputs, concept_id: str, concept: str, label: int | None) -> Problem:
    positive, negative = training_texts(inputs.texts.filter(pl.col("concept_id") == concept_id), inputs.lm)
    return Problem(
        lm=inputs.lm,
        sae=inputs.sae,
        layer=inputs.layer,
        concept=concept,
        positive=positive,
        negative=negative,
        features=inputs.features,
        label=label if label is not None else labelled_feature(inputs.features, concept),
        effects=inputs.effects,
        vectors=dict(inputs.vectors),
        seed=inputs.settings.seed,
        training=inputs.training,
        n_prefix=n_prefix_tokens(inputs.lm) if inputs.settings.training_tokens == "all" else None,
        prompts=tuple(inputs.prompts.filter(concept_id=concept_id).sort("number")["prompt"]),
        words=inputs.settings.words.get(concept, ()),
    )


def labelled_feature(features: pl.DataFrame, concept: str) -> int | None:
    """The feature whose own records say the concept most clearly: the largest share of their maxima on it; ties: the lowest number."""
    labelled = features.filter(pl.col("concept") == concept).sort("concept_share", "feature", descending=[True, False])
    return None if labelled.is_empty() else int(labelled["feature"][0])


def fitted_rows(problems: Mapping[str, Problem], missing: pl.DataFrame, neutral: Sequence[Sequence[int]]) -> Iterator[pl.DataFrame]:
    """FITS rows of the missing keys of one layer (layer, method, concept_id), one at a time, concept by concept so that a concept's
    residuals are computed once. `neutral` are prompts (token ids) on which the change of the residual is measured."""
    by_key = {row.key: row for row in METHODS}
    for (concept_id,), rows in missing.group_by("concept_id", maintain_order=True):
        problem = replace(problems[str(concept_id)])  # a copy of its own, whose residuals are let go with it
        for key in rows["method"]:
            made = _row(problem, by_key[key], neutral)
            yield pl.DataFrame([{"layer": problem.layer, "method": key, "concept_id": concept_id, **made}], schema=FITS.schema)


def _row(problem: Problem, row: Method, neutral: Sequence[Sequence[int]]) -> dict[str, object]:
    """One fit, or why there is none."""
    r2 = problem.effects.r2 if problem.effects is not None and "effects" in row.needs else None
    basis = {"n_texts": n_choosing_texts(problem, row), "r2": r2}
    started = time.perf_counter()
    try:
        made = fit_of(row)(problem)
    except Abstains as why:
        empty = dict.fromkeys(("kind", "tensors", "values", "residual_change", "residual_norm", *_TRAINING))
        return {**empty, **basis, "features": [], "fit_seconds": time.perf_counter() - started, "reason": str(why)}
    seconds = time.perf_counter() - started
    fitted = intervention_of(made)
    tensors, values = packed(fitted)
    change, norm = residual_change(problem, fitted, neutral)
    return {
        "kind": kind_of(fitted),
        "tensors": tensors,
        "values": values,
        "features": _features(fitted),
        "residual_change": change,
        "residual_norm": norm,
        **{name: getattr(made, name, None) for name in _TRAINING},
        **basis,
        "fit_seconds": seconds,
        "reason": None,
    }


def n_choosing_texts(problem: Problem, row: Method) -> int:
    """Labelled texts that choose a method's features, make its vector or stand in its prompts; those that only set a scale do not count."""
    conditions = {"unlabelled": problem.label is None, "base": problem.lm.prompt_format != "chat"}
    choose = conditions.get(row.text_use, row.text_use == "choice")
    return len(problem.positive) + len(problem.negative) if choose else 0


def _features(intervention: Intervention) -> list[int]:
    if isinstance(intervention, CodeEdit):
        return [int(feature) for feature in intervention.features]
    return list(intervention.features) if isinstance(intervention, Addition) else []


@torch.no_grad()
def residual_change(problem: Problem, intervention: Intervention, neutral: Sequence[Sequence[int]]) -> tuple[float | None, float]:
    """(mean norm of the change that factor 1 makes where the SAE's directions are added, mean norm of what lies there unsteered), over
    every token of the neutral prompts but the first; no change is given for added text."""
    lm, site = problem.lm, problem.site
    which, factor = torch.zeros(MIN_ROWS, dtype=torch.long, device=lm.device), torch.ones(MIN_ROWS, device=lm.device)
    changes: list[Float[Tensor, " token"]] = []
    norms: list[Float[Tensor, " token"]] = []
    for prompt in (prompt for prompt in neutral if len(prompt) > 1):
        ids = torch.tensor([list(prompt)] * MIN_ROWS, device=lm.device)
        plain = reading(lm, ids, site).value[0, 1:]
        norms.append(plain.float().norm(dim=1))
        if not isinstance(intervention, PromptText):
            given = switched(lm, site, [intervention], which, factor, [prompt] * MIN_ROWS)
            steering = steering_of(lm, [intervention], which, given, problem.sae, site)
            with steering.installed(lm, 0, len(prompt)):
                changes.append((reading(lm, ids, site).value[0, 1:] - plain).float().norm(dim=1))
    mean_norm = float(torch.cat(norms).mean())
    return (float(torch.cat(changes).mean()) if changes else None), mean_norm
