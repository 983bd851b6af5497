"""Ratings of generations by a language model: concept, instruction where there is one, fluency; and their harmonic mean.

The protocol is AxBench's (arXiv 2501.17148, section 3) but for one thing: its program counts an unreadable rating as 0, here it is null
with a reason. Ratings are read from the stored raw answers every time (saesteer.judge.answers).
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl
from tqdm import tqdm

from saesteer.analysis.score import harmonic_mean
from saesteer.core.tables import GENERATIONS, JUDGEMENTS
from saesteer.judge.answers import AnswerBook, Asker, JudgeError, answer_all, unanswered
from saesteer.judge.parse import Rating
from saesteer.judge.rubric import Aspect, Question, questions

ALGORITHM_VERSION = 1

NO_CONCEPT = "the feature has no concept"
NO_CONTENT = "no content to rate"
UNREADABLE = "unreadable answer"

log = logging.getLogger(__name__)


def judge_texts(
    texts: pl.DataFrame,
    instructions: Mapping[str, str] | None,
    asker: Asker,
    answers_folder: Path,
    part_seconds: float,
    rates_blank: bool = False,
) -> Iterator[pl.DataFrame]:
    """The JUDGEMENTS rows of GENERATIONS rows with a column `concept` (null where there is none), some at a time, one layer in each frame.
    Their raw answers are on disk before they are yielded. Where there is no text there is no rating;
    a blank text has none unless `rates_blank` (P4), which puts it to the judge as any other.

    `instructions` maps prefix_id to the instruction that the texts answer, or is None where texts continue a prefix. Nothing that
    `answers_folder` holds is asked again.
    """
    yield from (layer for _, layer in _without_text(texts.filter(pl.col("text").is_null())).group_by("layer", maintain_order=True))
    texts = texts.filter(pl.col("text").is_not_null())
    rows = _with_questions(texts, instructions, rates_blank)
    with (
        AnswerBook(answers_folder, asker.fingerprint, part_seconds) as book,
        tqdm(total=len(rows), desc="judge", unit="text", mininterval=5) as bar,
    ):
        asker.expect(unanswered([question for row in rows for question in row.values()], book))
        size = max(1, asker.questions_at_once // (2 if instructions is None else 3))
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            answer_all([question for row in chunk for question in row.values()], asker, book)
            rated = rate_with_answers(texts[start : start + size], chunk, instructions is not None, book)
            yield from (layer for _, layer in rated.group_by("layer", maintain_order=True))
            bar.update(len(chunk))


def rate_with_answers(
    texts: pl.DataFrame, row_questions: list[dict[Aspect, Question]], answers_instructions: bool, book: AnswerBook
) -> pl.DataFrame:
    """The JUDGEMENTS rows of texts by stored answers; `row_questions` has each row's, none where one does not apply."""
    ratings = {
        f"{aspect}_rating": pl.Series([_rating(row.get(aspect), book) for row in row_questions], dtype=pl.UInt8)
        for aspect in ("concept", "instruction", "fluency")
    }
    apply = [name for name in ratings if answers_instructions or name != "instruction_rating"]
    rated = texts.select(GENERATIONS.keys).with_columns(
        **ratings,
        reason=pl.Series([_reason(row, book) for row in row_questions], dtype=pl.String),
    )
    return rated.with_columns(judge_score=harmonic_mean(apply)).select(list(JUDGEMENTS.columns))


def _without_text(rows: pl.DataFrame) -> pl.DataFrame:
    none = {name: pl.lit(None, column.dtype) for name, column in JUDGEMENTS.columns.items() if name not in (*GENERATIONS.keys, "reason")}
    return rows.select(*GENERATIONS.keys, "reason").with_columns(**none).select(list(JUDGEMENTS.columns))


def _with_questions(texts: pl.DataFrame, instructions: Mapping[str, str] | None, rates_blank: bool) -> list[dict[Aspect, Question]]:
    """Each row's questions."""
    columns = (texts[name].to_list() for name in ("text", "concept", "prefix_id"))
    return [
        questions(text, concept, _instruction(instructions, prefix)) if rates_blank or text.strip() else {}
        for text, concept, prefix in zip(*columns, strict=True)
    ]


def _instruction(instructions: Mapping[str, str] | None, prefix_id: str) -> str | None:
    if instructions is None:
        return None
    if prefix_id not in instructions:
        raise JudgeError(f"no instruction with prefix_id {prefix_id} was given, but there are texts that answer it: run the sweep again")
    return instructions[prefix_id]


def _rating(question: Question | None, book: AnswerBook) -> int | None:
    reading = book.reading(question) if question else None
    return reading.value if isinstance(reading, Rating) else None


def _reason(row: Mapping[Aspect, Question], book: AnswerBook) -> str | None:
    """Why the row has no judge score; None when it has one."""
    if not row:
        return NO_CONTENT
    if "concept" not in row:
        return NO_CONCEPT
    readable = all(isinstance(book.reading(question), Rating) for question in row.values())
    return None if readable else UNREADABLE
