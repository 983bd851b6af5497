"""SAE features chosen by label, by how well they tell the concept's texts from others, or by their scores."""

import polars as pl
import torch

from saesteer.engine.interventions import (
    DECAY,
    ActivationEdit,
    Addition,
    ConditionalClamp,
    DecayingAddition,
    ProjectionFloor,
    ScaledComponent,
)
from saesteer.methods.fit.means import difference_of_means
from saesteer.methods.fit.problem import Abstains, Problem
from saesteer.methods.fit.sae_features import (
    addition,
    at_max_activations,
    best,
    candidates,
    combination,
    detectors,
    direction,
    labelled,
    ranked,
    scored,
    with_auroc,
    with_label,
    written,
)

MIN_OUTPUT_SCORE = 0.1
"""The threshold of the best row of P1's Table 1."""

MIN_INPUT_SCORE = 0.1
"""Share of a feature's max-activating examples whose maximum is on one of its top logit-lens tokens. No paper names one: that of the output
score."""

K = 5
"""Features added up; fewer where fewer survive."""

_NO_LABELLED = "no feature labelled with the concept was ever active"
_NO_SURVIVOR = f"none of the concept's features has an output score of at least {MIN_OUTPUT_SCORE}"


def by_label(problem: Problem) -> Addition:
    """AxBench's choice (P4, arXiv 2501.17148, section 4): the feature whose label the concept is; of several, the one with most
    of its max-activating examples on it (`fits.labelled_feature`). Training texts are not looked at."""
    return addition(problem, labelled(problem))


def clamped(problem: Problem) -> ActivationEdit:
    """The labelled feature, clamped (P4, arXiv 2501.17148): its activation is set to factor * max_act at every position, whatever it was,
    and the difference, decoded, is added."""
    return at_max_activations(problem, [labelled(problem)])


def clamped_where_active(problem: Problem) -> ConditionalClamp:
    """The labelled feature, clamped at positions where it is active (arXiv 2410.19278, section 3, which clamps below 0 to unlearn)."""
    everywhere = clamped(problem)
    return ConditionalClamp(everywhere.features, everywhere.values)


def component_scaled(problem: Problem) -> ScaledComponent:
    """The residual's component along the labelled feature's decoder direction, scaled (Neuronpedia's orthogonal decomposition)."""
    feature = labelled(problem)
    return ScaledComponent(direction(problem, feature), (feature,))


def component_raised(problem: Problem) -> ProjectionFloor:
    """The feature's component, raised to factor * max_act where it is below (Neuronpedia's projection cap, of the opposite direction)."""
    feature = labelled(problem)
    return ProjectionFloor(*written(problem, feature), (feature,))


def decaying(problem: Problem) -> DecayingAddition:
    """The labelled feature, added from the prompt's last token on, by a share DECAY less at each further token (arXiv 2510.01246)."""
    feature = labelled(problem)
    return DecayingAddition(*written(problem, feature), DECAY, (feature,))


def by_label_and_output_score(problem: Problem) -> Addition:
    """P1's method (arXiv 2505.20063, table 1): the labelled feature where its output score reaches the threshold. Where it does not, the
    method abstains, and P1 leaves the concept out of its mean. Training texts are not looked at."""
    by_its_label = by_label(problem)
    score = problem.features.filter(pl.col("feature") == problem.label)["output_score"].item()
    if score < MIN_OUTPUT_SCORE:
        raise Abstains(f"feature {problem.label}, labelled with the concept, has an output score of {score:.3g}, below {MIN_OUTPUT_SCORE}")
    return by_its_label


def by_label_and_delta_confidence(problem: Problem) -> Addition:
    """By delta token confidence among labelled features (P5, arXiv 2510.03659): of the features with the concept's label, the one that,
    added at the end of a neutral prompt, makes the model least sure of its likeliest next token.

    log max p(unsteered) - log max p(steered), steered with 10 * a_max * W_dec[f]; k = 1 token. It is computed together with the output
    score (`engine.output_score`), at that step's prompt and factor, which are P5's strength by default. P5 ranks the labelled features of a
    whole SAE and steers with the first, each judged by its own label; here the concept is given, so they are ranked within it. Where one
    feature has its label, as in published lists of concepts, it is that one.
    """
    return addition(problem, best(with_label(problem), "delta_token_confidence", _NO_LABELLED))


def by_label_and_max_activation(problem: Problem) -> Addition:
    """The plainest rule: of the features with the concept's label, the one with the largest max activation."""
    return addition(problem, best(with_label(problem), "max_activation", _NO_LABELLED))


def by_auroc(problem: Problem) -> Addition:
    """SAE-A (P4, arXiv 2501.17148, section 4): the feature that best tells the concept's training texts from others, by the AUROC of a
    text's largest activation."""
    return addition(problem, best(with_auroc(problem), "auroc", "the layer has no scored feature"))


def by_cosine(problem: Problem) -> Addition:
    """The feature whose decoder direction has the largest cosine with DiffMean's vector (P4, arXiv 2501.17148, section 4)."""
    difference = difference_of_means(problem.positive_tokens, problem.negative_tokens)
    cosines = torch.nn.functional.normalize(problem.sae.W_dec.float(), dim=1) @ difference
    return addition(problem, best(scored(candidates(problem), "cosine", cosines), "cosine", "the layer has no scored feature"))


def by_output_score(problem: Problem) -> Addition:
    """SAE-A after P1's filter (arXiv 2505.20063): of the features that detect the concept's training texts, those whose output score is
    below the threshold are dropped, and the best detector of the rest is taken. P1 itself takes the labelled feature or none
    (`by_label_and_output_score`)."""
    return addition(problem, best(survivors(problem), "auroc", _NO_SURVIVOR))


def by_both_scores(problem: Problem) -> Addition:
    """The best detector of those that read tokens and write the same ones (P1, arXiv 2505.20063, section 3, defines both scores and finds
    features that are high in both to be rare). Without max-activating examples there is no input score."""
    rows = survivors(problem).filter(pl.col("input_score") >= MIN_INPUT_SCORE)
    return addition(problem, best(rows, "auroc", f"{_NO_SURVIVOR} and an input score of {MIN_INPUT_SCORE}"))


def by_delta_confidence(problem: Problem) -> Addition:
    """The feature of largest delta token confidence among those that detect the concept's training texts. P5 (arXiv 2510.03659) ranks
    labelled features (`by_label_and_delta_confidence`)."""
    rows = detectors(problem).filter(pl.col("delta_token_confidence").is_not_null())
    return addition(problem, best(rows, "delta_token_confidence", "none of the concept's features has a delta token confidence"))


def top_k(problem: Problem) -> Addition:
    """Several features at once: the `K` best detectors of the concept that survive the output score's filter (P1, arXiv 2505.20063), added
    up.

    Each counts with what it writes at its max activation, max_act * W_dec[f], all with weight 1. The sum is one vector as any other: unit
    norm, and scaled by its largest activation on the concept's texts (P4, arXiv 2501.17148).
    """
    features = ranked(survivors(problem), "auroc")["feature"].head(K).to_list()
    if not features:
        raise Abstains(_NO_SURVIVOR)
    return combination(problem, features, at_max_activations(problem, features).values)


def survivors(problem: Problem) -> pl.DataFrame:
    """The concept's features, with `auroc`, whose own tokens steering with them promotes."""
    return detectors(problem).filter(pl.col("output_score") >= MIN_OUTPUT_SCORE)
