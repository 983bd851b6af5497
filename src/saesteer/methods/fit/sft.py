"""Supervised fine-tuning (P4, arXiv 2501.17148): every weight of a copy of the model trained on the language-model loss of the
positive texts' outputs. What is given back is the difference from the model.

Constants are those of P4's program (settings/recipes.csv).

Memory: training holds a copy of the model in float32 with its gradient and AdamW's two averages (16 bytes a parameter: 42 GB for
Gemma-2-2b), the result 4 bytes a parameter, and each concept's fit on disk as much.
"""

import copy

import torch

from saesteer.engine.adapters import WeightChange, check_changeable
from saesteer.engine.models import LanguageModel, language_model
from saesteer.methods.fit.problem import Problem, TrainingText
from saesteer.methods.fit.training import Trained, Trainee, token_losses, trained


def fit(problem: Problem) -> Trained:
    """What training on the positive texts adds to each parameter; tied embeddings are one parameter."""
    return trained(problem, "sft", untrained, problem.positive)


def untrained(problem: Problem, _generator: torch.Generator) -> Trainee[TrainingText]:
    """What training starts from: the model's weights."""
    tuned = trainable_copy(problem.lm)

    def result() -> WeightChange:
        parameters = dict(tuned.model.named_parameters())
        change = {name: parameters[name].detach() - before.float() for name, before in problem.lm.model.named_parameters()}
        return WeightChange({name: difference for name, difference in change.items() if bool(difference.any())})

    return Trainee(list(tuned.model.parameters()), lambda texts, _progress: token_losses(tuned, texts), result)


def trainable_copy(lm: LanguageModel) -> LanguageModel:
    """A copy of the model in float32, with gradients: small updates would be rounded away in narrower formats."""
    check_changeable(lm)
    tuned = language_model(copy.deepcopy(lm.model).float(), lm.tokenizer, lm.bos, lm.prompt_format, lm.chat)
    tuned.model.requires_grad_(True)
    return tuned
