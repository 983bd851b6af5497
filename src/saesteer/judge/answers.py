"""Every raw answer of a judge, kept for good: an answer that was paid for is never asked for again, and can be read anew at any time.

    <answers folder>/<fingerprint>/fingerprint.json     rubric, judge and its settings, spelt out; no address and no key
    <answers folder>/<fingerprint>/<SHA-256>.parquet    a part: answers, named by the digest of its bytes

Parts are immutable as in the part store (saesteer.core.store): jobs of other layers, running at the same time or later, find what is there.
"""

import json
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl

from saesteer.core.errors import SaesteerError
from saesteer.core.files import file_digest, remove_abandoned, value_digest, write_json
from saesteer.core.store import FINGERPRINT_DIGITS, sound_parts, write_part
from saesteer.core.tables import Column, Table, validate
from saesteer.judge.parse import REQUEST_REFUSED, ParsedAnswer, Unparsed
from saesteer.judge.rubric import ATTEMPTS, Question, rubric_digest
from saesteer.settings import Endpoint

ANSWERS = Table(
    "answers",
    ("request_id", "attempt"),
    {
        "request_id": Column(pl.String, "digest of the question's messages"),
        "attempt": Column(pl.UInt8, "0: first asked; 1, 2: asked again because the answers before were unreadable"),
        "aspect": Column(pl.String, "concept, instruction or fluency; or steering prompt, name or detection"),
        "text_id": Column(pl.String, "first 16 hex digits of the SHA-256 of the rated text, or of the concept"),
        "raw": Column(pl.String, "the answer as it came"),
        "finish_reason": Column(pl.String, "why it ended, as the judge reports it", "the judge does not say"),
        "prompt_tokens": Column(pl.UInt32, "tokens of the question, as the judge counts them", "the judge does not say"),
        "completion_tokens": Column(pl.UInt32, "tokens of the answer, as the judge counts them", "the judge does not say"),
        "model": Column(pl.String, "the model as the judge names itself", "the judge does not say"),
    },
)

log = logging.getLogger(__name__)


class JudgeError(SaesteerError, RuntimeError):
    """A judge that cannot go on; the message says what happened, what is kept, and what to do."""


@dataclass(frozen=True)
class JudgeAnswer:
    """A raw answer, and what it is about, without the text itself: a row of ANSWERS."""

    request_id: str
    attempt: int
    aspect: str
    text_id: str
    raw: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str | None


@dataclass(frozen=True)
class Ask:
    """A question and how often it was asked before."""

    question: Question
    attempt: int

    @property
    def key(self) -> tuple[str, int]:
        """The answer's key in the store."""
        return self.question.request_id, self.attempt

    @property
    def identity(self) -> dict[str, Any]:
        """The columns of the answer that say what it is about."""
        question = self.question
        return {"request_id": question.request_id, "attempt": self.attempt, "aspect": question.aspect, "text_id": question.text_id}

    @property
    def messages(self) -> list[dict[str, str]]:
        """What is sent."""
        return self.question.messages(self.attempt)


def answers_fingerprint(kind: str, model: str, max_tokens: int, seed: int) -> dict[str, Any]:
    """What answers depend on besides their questions. Not the address: the same model served elsewhere is the same judge."""
    return {"rubric": rubric_digest(), "kind": kind, "model": model, "max_tokens": max_tokens, "temperature": 0, "seed": seed}


class AnswerBook:
    """The stored answers of one judge, and the writer of new ones. A context: leaving it, however, writes what is not yet on disk."""

    def __init__(self, answers_folder: Path, fingerprint: Mapping[str, Any], part_seconds: float) -> None:
        self.folder = answers_folder / value_digest(fingerprint)[:FINGERPRINT_DIGITS]
        self._fingerprint = fingerprint
        self._part_seconds = part_seconds
        self._stored: dict[tuple[str, int], JudgeAnswer] = {}
        self._unwritten: list[JudgeAnswer] = []
        self._read: set[str] = set()
        self._flushed_at = time.monotonic()
        remove_abandoned(self.folder)
        self.refresh()

    def __enter__(self) -> "AnswerBook":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.flush()
        if len(models := answering_models(self.folder)) > 1:
            log.warning("%s: these answers come from several models under one name: %s (docs/judges.md)", self.folder, ", ".join(models))

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._stored

    @property
    def is_answered(self) -> bool:
        """Whether the judge has answered any question."""
        return any(answer.finish_reason != REQUEST_REFUSED for answer in self._stored.values())

    def is_refused(self, question: Question) -> bool:
        """Whether the endpoint refused a question, as it would again."""
        answers = (self._stored.get((question.request_id, attempt)) for attempt in range(ATTEMPTS))
        return any(answer.finish_reason == REQUEST_REFUSED for answer in answers if answer)

    def refresh(self) -> None:
        """Read the parts that have come since, of this job or another. A damaged part is not read: its answers count as missing."""
        for part in sorted(part for part in self.folder.glob("*.parquet") if part.stem not in self._read):
            self._read.add(part.stem)
            if file_digest(part) != part.stem:
                log.warning("%s: its bytes do not match its name, so it is not read and its answers count as missing; delete it", part)
                continue
            for row in validate(ANSWERS, pl.read_parquet(part), str(part)).iter_rows(named=True):
                self._stored.setdefault((row["request_id"], row["attempt"]), JudgeAnswer(**row))

    def add(self, answer: JudgeAnswer) -> None:
        """Keep a new answer; it reaches the disk with the others of the same `part_seconds`."""
        key = (answer.request_id, answer.attempt)
        if key in self._stored:
            return
        self._stored[key] = answer
        self._unwritten.append(answer)
        if time.monotonic() - self._flushed_at > self._part_seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is not yet on disk as one part."""
        self._flushed_at = time.monotonic()
        if not self._unwritten:
            return
        if not (path := self.folder / "fingerprint.json").exists():
            write_json(path, self._fingerprint)
        rows = pl.DataFrame([asdict(answer) for answer in self._unwritten], schema=ANSWERS.schema)
        part = write_part(self.folder, validate(ANSWERS, rows, str(self.folder)).sort(ANSWERS.keys))
        self._read.add(part.stem)
        self._unwritten = []

    def answer(self, question: Question) -> JudgeAnswer | None:
        """What came when the question was first asked; None: it never was."""
        return self._stored.get((question.request_id, 0))

    def reading(self, question: Question) -> ParsedAnswer | None:
        """What the stored answers to a question say: the first that is readable, else the last unreadable one; None: never asked."""
        reading = None
        for attempt in range(ATTEMPTS):
            if answer := self._stored.get((question.request_id, attempt)):
                reading = question.reading(answer.raw, answer.finish_reason)
                if not isinstance(reading, Unparsed):
                    break
        return reading


def answering_models(folder: Path) -> list[str]:
    """The models that gave the answers in a judge's folder, as they name themselves: several, where the name went over to another model."""
    names = [pl.read_parquet(part, columns=["model"])["model"] for part in sound_parts(folder)]
    return sorted({name for part in names for name in part.drop_nulls()})


def models_behind(settings: Endpoint, answers_folder: Path) -> list[str]:
    """The models that answered where a judge with these settings was asked."""
    same_judge = {"kind": "endpoint", **settings.model_dump(include={"model", "max_tokens", "temperature", "seed"})}
    files = [file for file in answers_folder.glob("*/fingerprint.json") if same_judge.items() <= json.loads(file.read_text()).items()]
    return sorted({model for file in files for model in answering_models(file.parent)})


class Asker(ABC):
    """A judge that answers questions."""

    questions_at_once: int
    """About how many questions it wants to get together."""

    @property
    @abstractmethod
    def fingerprint(self) -> Mapping[str, Any]:
        """What its answers depend on besides the questions; see `answers_fingerprint`."""

    @abstractmethod
    def expect(self, asks: Sequence[Ask]) -> None:
        """Say what these would cost, before the first is asked."""

    @abstractmethod
    def ask(self, asks: Sequence[Ask], book: AnswerBook) -> None:
        """Ask, and add each answer to the book as it comes. On an error, what was answered is in the book."""


def unanswered(questions: Sequence[Question], book: AnswerBook) -> list[Ask]:
    """The first attempts that no stored answer serves, each question once."""
    distinct = {question.request_id: question for question in questions}
    return [Ask(question, 0) for question in distinct.values() if (question.request_id, 0) not in book]


def answer_all(questions: Sequence[Question], asker: Asker, book: AnswerBook) -> None:
    """See to it that the disk holds an answer to each question; what is unreadable is asked again, `ATTEMPTS` times in all."""
    unrated = list({question.request_id: question for question in questions}.values())
    for attempt in range(ATTEMPTS):
        book.refresh()
        unrated = [question for question in unrated if isinstance(book.reading(question), Unparsed | None)]
        asks = [ask for question in unrated if (ask := Ask(question, attempt)).key not in book and not book.is_refused(question)]
        if asks:
            asker.ask(asks, book)
        if missing := next((ask for ask in asks if ask.key not in book), None):
            raise JudgeError(f"the judge gave no answer to question {missing.question.request_id}, and no error; run again")
    book.flush()
    unreadable = [reading for question in unrated if isinstance(reading := book.reading(question), Unparsed)]
    if unreadable:
        first = unreadable[0]
        log.warning("judge: %d questions have no readable answer; of the first, %s: %r", len(unreadable), first.why, first.raw[-200:])
        if len(counts := Counter(reading.why for reading in unreadable)) > 1:
            log.warning("judge: of these %s", ", ".join(f"{n} because {why}" for why, n in counts.most_common()))
