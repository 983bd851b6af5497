"""CAST, conditional activation steering (arXiv 2409.05907), around DiffMean: h + f(sim(h, proj_c h)) * factor * max_act * w, where f is 1
when the prompt meets a condition and else 0.

The condition vector c is the first principal component of the texts' mean residuals, a positive and a negative text in turn, each less the
mean of its pair. Threshold and side (steer above it, or below) are those of highest F1 on the same texts. The similarity is
`engine.conditional.similarity`.

What departs: the paper searches for the condition's layer, too; here it is the one that is steered. It takes the mean over a prompt's
tokens from the first on; here the first is left out.

What it means in this table: the texts that the condition is fitted on are about the concept or are not, and methods are judged on neutral
prompts, which are not. A condition that tells them apart leaves those prompts unsteered, as it is meant to: this row's score should be
that of the unsteered model, and what it has above that is prompts taken for the concept's. Not a rival of the other vectors, but a measure
of how specific such a condition is.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.conditional import similarity
from saesteer.engine.interventions import ConditionalAddition
from saesteer.methods.fit import means
from saesteer.methods.fit.components import first_component
from saesteer.methods.fit.problem import Abstains, Problem, tokens


def diffmean(problem: Problem) -> ConditionalAddition:
    """DiffMean's vector and scale, and the condition."""
    addition = means.diffmean(problem)
    assert addition.scale is not None
    positive, negative = (
        torch.stack([rows.mean(dim=0) for rows in tokens(problem.lm, problem.hook_point, texts, n_prefix=1).by_text()])
        for texts in (problem.positive, problem.negative)
    )  # [text d_model]: each text's mean over all its tokens but the first, its context included: read as a prompt
    condition = condition_vector(positive, negative)
    threshold, above = best_rule(similarity(positive, condition), similarity(negative, condition))
    return ConditionalAddition(addition.vector, addition.scale, condition, threshold, above)


def condition_vector(positive: Float[Tensor, "text_p d_model"], negative: Float[Tensor, "text_n d_model"]) -> Float[Tensor, " d_model"]:
    """The first component of pairs about their own means; of unequal numbers of texts, the first ones make pairs."""
    n = min(len(positive), len(negative))
    half = (positive[:n] - negative[:n]) / 2
    return first_component(torch.cat([half, -half]))


def best_rule(positive: Float[Tensor, " text_p"], negative: Float[Tensor, " text_n"]) -> tuple[float, bool]:
    """The threshold, of those between two neighbouring values, and the side of it, on which F1 = 2TP / (2TP + FP + FN) is highest; of
    equals the lowest threshold, to be exceeded."""
    values = torch.cat([positive, negative]).unique().double()
    if len(values) < 2:
        raise Abstains("no condition tells the concept's texts from others: they are equally similar to it")
    rules = [(float(threshold), above) for above in (True, False) for threshold in (values[1:] + values[:-1]) / 2]

    def f1(rule: tuple[float, bool]) -> float:
        threshold, above = rule
        true, false = (int(((similarities > threshold) == above).sum()) for similarities in (positive, negative))
        return 2 * true / (true + false + len(positive))

    return max(rules, key=f1)
