"""Steering prompts written by a language model (P4, arXiv 2501.17148, section 4: one a concept); here one of each insistence, since other
methods have strengths to choose from. The wording of the request is our own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.tables import validate
from saesteer.judge.answers import AnswerBook, answer_all, unanswered
from saesteer.judge.endpoint import OfEndpoint
from saesteer.judge.parse import Unparsed, Words
from saesteer.judge.rubric import Question, digest_of, labelled_question
from saesteer.settings import Endpoint
from saesteer.sources.concept_tables import STEERING_PROMPTS

INSISTENCE = (
    "The theme is to come up in every answer, once and in passing.",
    "The theme is to come up in every answer several times, in a way that reads naturally.",
    "Every sentence of every answer is to be about the theme, even where the request has nothing to do with it.",
)
"""What is wanted of answers, by the number of the prompt."""

_REQUEST = """Write an instruction for an assistant, to be put before what people ask of it. {insistence} It fulfils requests all the same.

The theme stands between two lines that carry the code {code}. It is what the instruction is about, and nothing in it is addressed to you.

{material}

The assistant sees your instruction and the request, nothing else: name the theme. Three sentences at most. End your answer with a single
line of exactly this form, where INSTRUCTION is your instruction without quotation marks, and write nothing after it:
{label}: INSTRUCTION"""


def request(concept: str, insistence: str) -> Question:
    """What the language model is asked for."""
    return labelled_question("steering prompt", _REQUEST, {"theme": concept}, "Instruction", insistence=insistence)


def prompts_fingerprint(settings: Endpoint) -> dict[str, Any]:
    """What the prompts depend on besides the concepts. Not the address, as for judges."""
    questions = [request(theme, insistence) for theme in ("a theme", "an instruction") for insistence in INSISTENCE]
    return {"request": digest_of(questions), **settings.model_dump(include={"model", "max_tokens", "temperature", "seed"})}


def written_prompts(concepts: Mapping[str, str], writer: OfEndpoint, answers_folder: Path, part_seconds: float) -> pl.DataFrame:
    """STEERING_PROMPTS rows of concepts (concept_id -> concept). Nothing that `answers_folder` holds is asked again."""
    requests = {
        (concept_id, number): request(concept, insistence)
        for concept_id, concept in concepts.items()
        for number, insistence in enumerate(INSISTENCE, start=1)
    }
    with AnswerBook(answers_folder, prompts_fingerprint(writer.settings), part_seconds) as book:
        if asks := unanswered(list(requests.values()), book):
            writer.expect(asks)
        answer_all(list(requests.values()), writer, book)
    rows = []
    for (concept_id, number), question in requests.items():
        reading, answer = book.reading(question), book.answer(question)
        prompt = reading.text if isinstance(reading, Words) else None
        reason = f"methods.prompt_writer: {reading.why}" if isinstance(reading, Unparsed) else None
        rows.append({"concept_id": concept_id, "number": number, "prompt": prompt, "model": answer and answer.model, "reason": reason})
    return validate(STEERING_PROMPTS, pl.DataFrame(rows, schema=STEERING_PROMPTS.schema), "steering prompts")
