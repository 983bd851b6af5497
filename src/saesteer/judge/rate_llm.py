"""Ratings of generations by a language model: concept, instruction where there is one, fluency; and their harmonic mean.

The protocol is AxBench's (arXiv 2501.17148, section 3) but for one thing: its program counts an unreadable rating as 0, here it is null
with a reason. Ratings are read from the stored raw answers every time (saesteer.judge.answers).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from saesteer.analysis.score import harmonic_mean
from saesteer.core.texts import TEXT_KEYS
from saesteer.judge.answers import AnswerBook, Asker, JudgeError, answer_all, unanswered
from saesteer.judge.parse import ParsedAnswer, Rating
from saesteer.judge.rubric import Aspect, Question, questions

ALGORITHM_VERSION = 2

NO_CONCEPT = "the feature has no concept"
NO_CONTENT = "no content to rate"
UNREADABLE = "unreadable answer"


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
    unwritten = texts.filter(pl.col("text").is_null())
    yield from unwritten.select(*TEXT_KEYS, "reason").partition_by("layer", maintain_order=True)
    texts = texts.filter(pl.col("text").is_not_null())
    rows = [_questions(row, instructions, rates_blank) for row in texts.select("text", "concept", "prefix_id").iter_rows(named=True)]
    aspects: list[Aspect] = ["concept", "fluency"] if instructions is None else ["concept", "instruction", "fluency"]
    with (
        AnswerBook(answers_folder, asker.fingerprint, part_seconds) as book,
        tqdm(total=len(rows), desc="judge", unit="text", mininterval=5) as bar,
    ):
        asker.expect(unanswered([question for row in rows for question in row.values()], book))
        size = max(1, asker.questions_at_once // len(aspects))
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            answer_all([question for row in chunk for question in row.values()], asker, book)
            readings = [{aspect: book.reading(question) for aspect, question in row.items()} for row in chunk]
            columns = [pl.Series(f"{name}_rating", [_value(row.get(name)) for row in readings], dtype=pl.UInt8) for name in aspects]
            columns.append(pl.Series("reason", [_reason(row) for row in readings], dtype=pl.String))
            rated = texts[start : start + size].select(TEXT_KEYS).with_columns(columns)
            score = harmonic_mean([f"{name}_rating" for name in aspects])
            yield from rated.with_columns(judge_score=score).partition_by("layer", maintain_order=True)
            bar.update(len(chunk))


def _questions(row: Mapping[str, Any], instructions: Mapping[str, str] | None, rates_blank: bool) -> dict[Aspect, Question]:
    """What a text is asked about; nothing for a blank one, unless `rates_blank`."""
    text, prefix = row["text"], row["prefix_id"]
    if not rates_blank and not text.strip():
        return {}
    if instructions is not None and prefix not in instructions:
        raise JudgeError(f"no instruction with prefix_id {prefix} was given, but there are texts that answer it: run the sweep again")
    return questions(text, row["concept"], instructions[prefix] if instructions is not None else None)


def _value(reading: ParsedAnswer | None) -> int | None:
    return reading.value if isinstance(reading, Rating) else None


def _reason(readings: Mapping[Aspect, ParsedAnswer | None]) -> str | None:
    """Why a text has no judge score; None when it has one."""
    if not readings:
        return NO_CONTENT
    if "concept" not in readings:
        return NO_CONCEPT
    return None if all(isinstance(reading, Rating) for reading in readings.values()) else UNREADABLE
