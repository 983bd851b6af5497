"""SAE features chosen by label, by how well they tell the concept's texts from others, or by their scores."""

from __future__ import annotations

import polars as pl
import torch

from saesteer.engine.interventions import Addition, CodeEdit
from saesteer.methods.fit.problem import Abstains, Problem
from saesteer.methods.fit.sae_features import (
    addition,
    at_largest_records,
    best,
    combination,
    detectors,
    labelled,
    largest_record,
    ranked,
    with_auroc,
)

MIN_OUTPUT_SCORE = 0.1
"""The threshold of the best row of P1's Table 1."""

MIN_INPUT_SCORE = 0.1
"""Share of a feature's records whose maximum is on one of its lens tokens. No paper names one: that of the output score."""

K = 5
"""Features added up; fewer where fewer survive."""


def by_label(problem: Problem) -> Addition:
    """AxBench's choice (P4, arXiv 2501.17148, section 4): the feature whose label the concept is. Training texts are not looked at."""
    return addition(problem, labelled(problem))


def clamped(problem: Problem) -> CodeEdit:
    """The labelled feature, clamped (P4, arXiv 2501.17148): its code is set to factor * max_act at every position, whatever it was, and the
    difference, decoded, is added."""
    return at_largest_records(problem, [labelled(problem)])


def by_auroc(problem: Problem) -> Addition:
    """SAE-A (P4, arXiv 2501.17148, section 4): the feature that best tells the concept's training texts from others, by the AUROC of a
    text's largest code."""
    return addition(problem, best(with_auroc(problem), "auroc", "the layer has no scored feature"))


def by_output_score(problem: Problem) -> Addition:
    """Filtered by output score (P1, arXiv 2505.20063): of the concept's features that survive, the one of highest AUROC.

    P1's AxBench experiment takes the labelled feature and drops the concept where its output score is below a threshold. Here the concept's
    features are those that detect its training texts; those below the threshold are dropped, and the best detector of the rest is taken.
    Where none is left the method abstains, which P1 leaves out of its mean.
    """
    return addition(problem, best(survivors(problem), "auroc", _NO_SURVIVOR))


def by_both_scores(problem: Problem) -> Addition:
    """Filtered by both scores: the best detector of those that read tokens and write the same ones (P1, arXiv 2505.20063, section 3,
    defines both scores and finds features that are high in both to be rare; P5, arXiv 2510.03659, compares selection by either). Without
    records there is no input score."""
    rows = survivors(problem).filter(pl.col("input_score") >= MIN_INPUT_SCORE)
    return addition(problem, best(rows, "auroc", f"{_NO_SURVIVOR} and an input score of {MIN_INPUT_SCORE}"))


def by_delta_confidence(problem: Problem) -> Addition:
    """By delta token confidence (P5, arXiv 2510.03659): of the concept's features, the one that, added at the end of a neutral prompt,
    makes the model least sure of its likeliest next token.

    log max p(unsteered) - log max p(steered), steered with 10 * a_max * W_dec[f]; k = 1 token. It is computed together with the output
    score (`engine.output_score`), at that step's prompt and factor, which are P5's strength by default. P5 ranks features that were given
    labels beforehand; here those that detect the concept's training texts.
    """
    rows = detectors(problem).filter(pl.col("delta_token_confidence").is_not_null())
    return addition(problem, best(rows, "delta_token_confidence", "none of the concept's features has a delta token confidence"))


def top_k(problem: Problem) -> Addition:
    """Several features at once: the `K` best detectors of the concept that survive the output score's filter (P1, arXiv 2505.20063), added
    up.

    Each counts with what it writes in its largest record, max_act * W_dec[f], all with weight 1. The sum is one vector as any other: unit
    norm, and scaled by its largest activation on the concept's texts (P4, arXiv 2501.17148).
    """
    features = ranked(survivors(problem), "auroc")["feature"].head(K).to_list()
    if not features:
        raise Abstains(_NO_SURVIVOR)
    return combination(problem, features, torch.tensor([largest_record(problem, one) for one in features], device=problem.lm.device))


_NO_SURVIVOR = f"none of the concept's features has an output score of at least {MIN_OUTPUT_SCORE}"


def survivors(problem: Problem) -> pl.DataFrame:
    """The concept's features, with `auroc`, whose own tokens steering with them promotes."""
    return detectors(problem).filter(pl.col("output_score") >= MIN_OUTPUT_SCORE)
