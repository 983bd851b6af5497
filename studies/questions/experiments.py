"""Which experiments the open questions are asked of."""

from pathlib import Path

from saesteer.settings import AllFeatures, Comparison, Experiment, NoJudge, Sweep, TopicConcepts
from saesteer.steps import effects

MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Of the scale at which the approximator of effects is fitted: where its held-out vectors' effects are measured too."""
LEARNT = Path("docs/open-questions/tiny-brute/predictor_weights.csv")
"""The predictor that was learnt on the shipped model, in a folder of its experiment's name."""


def steers_every_feature(experiment: Experiment) -> bool:
    """Whether every feature of its layers is steered and judged, so that rules that pick one can be compared with the best there is, and
    its texts are labelled with the concepts."""
    every = isinstance(experiment, Sweep) and isinstance(experiment.features, AllFeatures) and not isinstance(experiment.judge, NoJudge)
    return every and isinstance(experiment.concepts, TopicConcepts)


def steers_with_labelled_features(experiment: Experiment) -> bool:
    """Whether ways of steering with the features of a label are tried, which takes the features' scores but no sweep of all of them."""
    return steers_every_feature(experiment)


def measures_effects(experiment: Experiment) -> bool:
    """Whether effects of vectors are measured, at one or two layers: it is asked how far their linear model goes."""
    return isinstance(experiment, Comparison) and effects.step(experiment) is not None and len(experiment.layers) < 3


def measures_effects_at_many_layers(experiment: Experiment) -> bool:
    """Whether they are measured at three layers or more: it is asked whether the model holds at later layers than the steered one."""
    return isinstance(experiment, Comparison) and effects.step(experiment) is not None and len(experiment.layers) >= 3


def predictor_of(experiment: Experiment) -> Path | None:
    """The predictor of another experiment that is tried on this one: on every model but the one that it was learnt on."""
    return None if experiment.seed_of_world == 0 else LEARNT
