"""Supervised fine-tuning (P4, arXiv 2501.17148): every weight of a copy of the model trained on the language-model loss of what the
positive texts say. What is given back is the difference from the model.

Constants are those of P4's program, for a model of 2.6 billion parameters.

Memory: training holds a copy of the model in float32 with its gradient and AdamW's two averages (16 bytes a parameter: 42 GB for
Gemma-2-2b), the result 4 bytes a parameter, and each concept's fit on disk as much.
"""

from __future__ import annotations

import copy
import logging

from saesteer.engine.adapters import check_changeable
from saesteer.engine.interventions import WeightChange
from saesteer.engine.models import LanguageModel, language_model
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.training import Recipe, text_loss, train

RECIPE = Recipe(learning_rate=4e-5, batch=18, accumulated=4, epochs=8, largest_gradient=1.0)

logger = logging.getLogger(__name__)


def fit(problem: Problem) -> WeightChange:
    """What training on the positive texts adds to each parameter; tied embeddings are one parameter."""
    lm, tuned = problem.lm, trainable_copy(problem.lm)
    parameters = dict(tuned.model.named_parameters())
    losses = train(list(parameters.values()), lambda texts: text_loss(tuned, texts), problem.positive, RECIPE, problem.generator("sft"))
    logger.info("sft, %s: loss %.3f before, %.3f after %d steps", problem.concept, losses[0], losses[-1], len(losses))
    change = {name: parameters[name].detach() - before.float() for name, before in lm.model.named_parameters()}
    return WeightChange({name: difference for name, difference in change.items() if bool(difference.any())})


def trainable_copy(lm: LanguageModel) -> LanguageModel:
    """The same model in float32, apart from it in memory, with gradients: updates of 4e-5 would be rounded away in narrower formats."""
    check_changeable(lm)
    tuned = language_model(copy.deepcopy(lm.model).float(), lm.tokenizer, lm.bos, lm.prompt_format, lm.chat)
    tuned.model.requires_grad_(True)
    return tuned
