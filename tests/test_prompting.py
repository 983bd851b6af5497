"""Prompting as a method: one more text from factor to factor, what does not fit, and what there is no text for."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
from engine_models import shipped_model
from methods_world import problem
from test_template_dates import chat_model

from saesteer.engine.generations import prompted_ids
from saesteer.engine.interventions import PromptText
from saesteer.judge.prompt_writing import INSISTENCE
from saesteer.methods.fit import prompting
from saesteer.methods.fit.problem import Abstains, TrainingText
from saesteer.settings.methods import FactorGrids
from saesteer.settings.registry import method

N_TEXTS = 24
CHAT = "{{ bos_token }}{% for turn in messages %}[{{ turn.content }}]{% endfor %}"


def test_a_base_model_reads_one_more_of_the_concepts_texts_from_factor_to_factor() -> None:
    given = problem(n_texts=N_TEXTS)
    fitted, lm = prompting.fit(given), given.lm
    assert len(fitted.texts) == 3
    decoded = [lm.tokenizer.decode(text.ids[1:]).strip() for text in given.positive]
    shortest = sorted(decoded, key=lambda text: len(lm.tokenizer(text)["input_ids"]))
    examples = [fitted.texts[0], *(more.removeprefix(fewer) for fewer, more in pairwise(fitted.texts))]
    lengths = [len(lm.tokenizer(example)["input_ids"]) for example in examples]
    assert all(example.strip() in decoded for example in examples)
    assert lengths == [len(lm.tokenizer(text)["input_ids"]) for text in shortest[:3]]
    ids = prompted_ids(lm, fitted, 2.0, "From my experience,")
    assert lm.tokenizer.decode(ids) == f"<bos>{fitted.texts[1]} From my experience,"
    assert lm.tokenizer.convert_ids_to_tokens(ids)[-4:] == ["▁From", "▁my", "▁experience", ","]  # within a text, not at its start


def test_a_model_that_answers_is_asked_with_rising_insistence() -> None:
    lm = chat_model(CHAT)
    fitted = prompting.fit(replace(problem(n_texts=2), lm=lm, concept="words about the sea."))
    assert len(fitted.texts) == 3
    assert all(text.endswith("words about the sea.") for text in fitted.texts)
    roomy = replace(lm, model=copy.copy(lm.model))
    roomy.model.config = copy.deepcopy(lm.model.config)
    roomy.model.config.max_position_embeddings = 2048
    ids = prompted_ids(roomy, fitted, 3.0, "Tell me.")
    assert lm.tokenizer.decode(ids) == f"<bos>[{fitted.texts[2]}\n\nTell me.]".replace("\n", "?")  # the tiny tokenizer knows no newline


def test_prompts_written_by_a_language_model_take_the_wordings_place() -> None:
    asked = replace(problem(n_texts=2), lm=chat_model(CHAT), concept="the sea", prompts=("Mention waves.", "Only waves."))
    assert prompting.fit(asked).texts == ("Mention waves.", "Only waves.")
    with pytest.raises(Abstains, match="wrote no prompt"):
        prompting.fit(replace(asked, prompts=("Mention waves.", None)))


def test_a_factor_without_a_text_and_what_is_too_long_are_refused() -> None:
    lm, text = shipped_model(), PromptText(("For many people, a mast was tangled.",))
    for factor in (0.0, 0.5, 4.0, -1.0):
        with pytest.raises(ValueError, match=f"texts for the factors 1 to 3, not {factor}; change methods.factors.prompt "):
            prompted_ids(lm, PromptText(("a", "b", "c")), factor, "From my experience,")
    n_tokens = len(lm.tokenizer(text.texts[0] + " They know that")["input_ids"])
    room = 64 - n_tokens
    assert len(prompted_ids(lm, text, 1.0, "They know that", room)) == n_tokens
    with pytest.raises(ValueError, match=r"text of factor 1 before the prompt 'They know that' makes it too long: 65 tokens .* at most 64"):
        prompted_ids(lm, text, 1.0, "They know that", room + 1)


def test_prompting_abstains_without_a_text() -> None:
    given = problem(n_texts=2)
    with pytest.raises(Abstains, match="could stand before a prompt"):
        prompting.fit(replace(given, positive=(TrainingText(given.positive[0].ids[:1], 1),)))


def test_the_search_draws_candidates_that_leave_room() -> None:
    """As many as there are factors; of the concept's own texts, 1 to 3 of the shorter half, never more than half of the context; the same
    for a seed, another draw for another concept."""
    given = problem(n_texts=N_TEXTS)
    fitted, lm = prompting.search(given), given.lm
    assert len(fitted.texts) == prompting.N_CANDIDATES == len(FactorGrids().addition)
    assert len(prompting.WORDINGS) == len(INSISTENCE) == len(FactorGrids().prompt)
    assert fitted == prompting.search(given)
    decoded = sorted(
        (lm.tokenizer.decode(text.ids[1:]).strip() for text in given.positive), key=lambda text: len(lm.tokenizer(text)["input_ids"])
    )
    for number, text in enumerate(fitted.texts):
        parts = [example for example in decoded[: N_TEXTS // 2] if example in text]
        assert 1 <= len(parts) <= 1 + number % 3
        assert sorted(" ".join(parts)) == sorted(text)
        assert len(lm.tokenizer(text)["input_ids"]) <= lm.n_positions // 2 + 1
    assert len(set(fitted.texts)) > prompting.N_CANDIDATES // 2
    chat = replace(given, lm=chat_model(CHAT))
    answered = tuple(TrainingText([*range(40, 45), *text.ids[1:]], 5) for text in given.positive)
    assert prompting.search(replace(chat, positive=answered)) == prompting.search(
        replace(chat, positive=tuple(TrainingText(text.ids[1:], 0) for text in given.positive))
    )
    for number, text in enumerate(prompting.search(chat).texts):
        assert text.startswith(prompting.WORDINGS[number % 3].format(concept=chat.concept))


def test_a_factor_without_a_further_text_has_the_same_and_long_texts_leave_room() -> None:
    """Every factor of the grid has a prompt, which the model takes with what it is to write."""
    two, few = problem(n_texts=2), problem(n_texts=6)
    long = [TrainingText((text.ids + text.ids[1:] * 9)[: few.lm.n_positions // 2 - 4], text.n_context) for text in few.positive]
    for given, n_different in ((two, 2), (replace(few, positive=tuple(long)), 1)):
        fitted = prompting.fit(given)
        for factor in FactorGrids().factors(method("prompting")):
            assert prompted_ids(given.lm, fitted, float(factor), "From my experience,", 12)
        assert (len(fitted.texts), len(set(fitted.texts))) == (3, n_different)
    too_long = [TrainingText((text.ids + text.ids[1:] * 9)[: few.lm.n_positions], text.n_context) for text in few.positive]
    with pytest.raises(Abstains, match="the shortest text of the concept fills more than three quarters of the model's context"):
        prompting.fit(replace(few, positive=tuple(too_long)))
