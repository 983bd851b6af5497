"""Prompting (P4, arXiv 2501.17148): the model is asked for the concept, nothing in it is changed.

P4 has a language model write an instruction for every concept, as `judge.prompt_writing` has where the settings name one. Else, for a
model that answers, the wording is fixed and the concept is filled in. Either is more insistent from factor to factor. A base model
follows no instructions: before its prompt stand training texts of the concept, one more from factor to factor, which it continues.

`fit` takes the shortest texts, whatever they do to the model; P4's prompts are written anew for each concept. `search` is the stronger
rival: it draws as many candidates as other methods have factors, and the prompts that choose a factor choose among them.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch

from saesteer.engine.interventions import PromptText
from saesteer.methods.fit.problem import Abstains, Problem
from saesteer.settings.methods import N_PROMPT_TEXTS

WORDINGS = (
    "In your answer, also touch on this theme: {concept}.",
    "Whatever is asked, bring this theme into your answer more than once, in a way that reads naturally: {concept}.",
    "One rule comes before all others: every sentence of your answer has to be about the theme given here, even where the request has "
    "nothing to do with it. Fulfil the request all the same. The theme: {concept}.",
)
"""Instructions to a model that answers, of rising insistence."""

MOST_EXAMPLES = N_PROMPT_TEXTS["prompt"]
"""Texts before a base model's prompt at the highest factor."""
N_CANDIDATES = N_PROMPT_TEXTS["prompt_search"]
"""Texts that `search` draws."""


def fit(problem: Problem) -> PromptText:
    """Instructions, written for the concept or in its own words; for a base model the concept's shortest texts, which leave most room for
    what is written."""
    if None in problem.prompts:
        raise Abstains("the language model wrote no prompt that can be used (table steering_prompts)")
    if problem.prompts:
        return PromptText(tuple(filter(None, problem.prompts)))
    if problem.lm.prompt_format == "chat":
        return PromptText(tuple(wording.format(concept=problem.concept.strip().rstrip(".")) for wording in WORDINGS))
    examples = _fitting(_by_length(problem)[:MOST_EXAMPLES], problem.lm.n_positions * 3 // 4)
    if not examples:
        raise Abstains("the shortest text of the concept fills more than three quarters of the model's context")
    texts = [" ".join(examples[: number + 1]) for number in range(len(examples))]
    return PromptText((*texts, *texts[-1:] * (MOST_EXAMPLES - len(texts))))  # a factor without a further text has the same


def search(problem: Problem) -> PromptText:
    """`N_CANDIDATES` texts: examples of the concept, 1 to `MOST_EXAMPLES` of them in turn, drawn from its shorter half; after an
    instruction where the model answers. As many examples of a draw are left out as would fill more than half of the model's context."""
    examples = _by_length(problem)
    examples = examples[: max(MOST_EXAMPLES, len(examples) // 2)]
    generator, texts = problem.generator("prompt_search"), []
    for number in range(N_CANDIDATES):
        drawn = torch.randperm(len(examples), generator=generator).tolist()[: 1 + number % MOST_EXAMPLES]
        fitting = _fitting([examples[place] for place in drawn], problem.lm.n_positions // 2)
        wording = WORDINGS[number % len(WORDINGS)].format(concept=problem.concept.strip().rstrip("."))
        texts.append(" ".join([wording, *fitting] if problem.lm.prompt_format == "chat" else fitting))
    return PromptText(tuple(texts))


def _fitting(examples: Sequence[tuple[str, int]], room: int) -> list[str]:
    """The texts, given with their numbers of tokens, up to where they would fill more than so many."""
    lengths = accumulate(n for _, n in examples)
    return [text for (text, _), length in zip(examples, lengths, strict=True) if length <= room]


def _by_length(problem: Problem) -> list[tuple[str, int]]:
    """The concept's texts that say something, each with its number of tokens, shortest first; of a model that answers the answers, for a
    chat template's words around them would stand in a user's turn."""
    answers = problem.lm.prompt_format == "chat"
    ids = [text.ids[text.n_context if answers else 0 :] for text in problem.positive]
    decoded = [(str(problem.lm.tokenizer.decode(of_text, skip_special_tokens=True)).strip(), len(of_text)) for of_text in ids]
    examples = sorted(((text, length) for text, length in decoded if text), key=lambda example: example[1])
    if not examples:
        raise Abstains("none of the concept's texts says anything that could stand before a prompt")
    return examples
