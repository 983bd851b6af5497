"""Prompting (P4, arXiv 2501.17148): the model is asked for the concept, nothing in it is changed.

P4 has a language model write an instruction for every concept, as `judge.prompt_writing` has where the settings name one. Else, for a
model that answers, the wording is fixed and the concept is filled in. Either is more insistent from factor to factor. A base model
follows no instructions: before its prompt stand training texts of the concept, one more from factor to factor, which it continues.
"""

from saesteer.engine.interventions import PromptText
from saesteer.methods.fit.problem import Abstains, Problem

WORDINGS = (
    "In your answer, also touch on this theme: {concept}.",
    "Whatever is asked, bring this theme into your answer more than once, in a way that reads naturally: {concept}.",
    "One rule comes before all others: every sentence of your answer has to be about the theme given here, even where the request has "
    "nothing to do with it. Fulfil the request all the same. The theme: {concept}.",
)
"""Instructions to a model that answers, of rising insistence."""

MOST_EXAMPLES = 3
"""Texts before a base model's prompt at the highest factor."""


def fit(problem: Problem) -> PromptText:
    """Instructions, written for the concept or in its own words; for a base model the concept's shortest texts, which leave most room for
    what is written."""
    if None in problem.prompts:
        raise Abstains("the language model wrote no prompt that can be used (table steering_prompts)")
    if problem.prompts:
        return PromptText(tuple(filter(None, problem.prompts)))
    if problem.lm.prompt_format == "chat":
        return PromptText(tuple(wording.format(concept=problem.concept.strip().rstrip(".")) for wording in WORDINGS))
    shortest = sorted(problem.positive, key=lambda text: len(text.ids))
    decoded = (str(problem.lm.tokenizer.decode(text.ids, skip_special_tokens=True)).strip() for text in shortest)
    examples = [example for example in decoded if example][:MOST_EXAMPLES]
    if not examples:
        raise Abstains("none of the concept's texts says anything that could stand before a prompt")
    return PromptText(tuple(" ".join(examples[: number + 1]) for number in range(len(examples))))
