"""Which experiments the open questions are asked of."""

from saesteer.settings import AllFeatures, Comparison, Experiment, NoJudge, Sweep, TopicConcepts
from saesteer.steps import effects

MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Of the scale at which the approximator of effects is fitted: where its held-out vectors' effects are measured too."""


def steers_every_feature(experiment: Experiment) -> bool:
    """Whether every feature of its layers is steered and judged, so that rules that pick one can be compared with the best there is, and
    its texts are labelled with the concepts."""
    every = isinstance(experiment, Sweep) and isinstance(experiment.features, AllFeatures) and not isinstance(experiment.judge, NoJudge)
    return every and isinstance(experiment.concepts, TopicConcepts)


def measures_effects(experiment: Experiment) -> bool:
    """Whether effects of vectors are measured, at one or two layers: it is asked how far their linear model goes."""
    return isinstance(experiment, Comparison) and effects.step(experiment) is not None and len(experiment.layers) < 3


def measures_effects_at_many_layers(experiment: Experiment) -> bool:
    """Whether they are measured at three layers or more: it is asked whether the model holds at later layers than the steered one."""
    return isinstance(experiment, Comparison) and effects.step(experiment) is not None and len(experiment.layers) >= 3
