"""What a language model costs: estimated before, counted afterwards, and how much an experiment may still spend.

Before an answer comes, its tokens are estimates: a token is about four characters of English. What a request can cost at most is counted
by its bytes (a token is at least one) and the longest answer allowed. Afterwards the endpoint's own count is used where it gives one.

All jobs of an experiment, their retries and later runs share one ledger:

    data/NAME/spent.jsonl, a line each time:
    {"request": "9f3c…", "section": "judge", "settled": false, "input_tokens": 812, "output_tokens": 200, "usd": 0.00024}

The first line of a request stands there before it is sent, with the most that it can cost; the second, settled, with what it did cost. A
request without a second line is under way, or was cut off and may have been charged: it counts at its worst until somebody deletes its
line. Lines are only ever added, under a lock of the file system (flock, which NFS has too).
"""

import fcntl
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from saesteer.judge.answers import Ask, JudgeAnswer, JudgeError
from saesteer.judge.parse import REQUEST_REFUSED
from saesteer.judge.rubric import questions
from saesteer.settings import Endpoint

CHARACTERS_PER_TOKEN = 4.0
"""An estimate for English text; other scripts have fewer."""

TYPICAL_ANSWER_TOKENS = 60
"""Two sentences and the line with the rating; an estimate."""

TOKENS_AROUND_A_MESSAGE = 16
"""A chat template's own tokens; an upper estimate."""

LEDGER = "spent.jsonl"
"""Name of the ledger in an experiment's data folder, beside the folders that are shared: what was spent here is this clone's."""

USD_DIGITS = 9
"""Decimals to which sums of prices are compared with the limit: further ones are rounding."""


@dataclass(frozen=True)
class Spend:
    """Tokens of prompts and of answers, and their price in USD."""

    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

    @property
    def tokens(self) -> int:
        """Prompts and answers together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens, self.usd + other.usd)

    def __mul__(self, times: int) -> "Spend":
        return Spend(self.input_tokens * times, self.output_tokens * times, self.usd * times)

    def __sub__(self, other: "Spend") -> "Spend":
        return self + other * -1

    def __str__(self) -> str:
        return f"{self.usd:.4f} USD ({self.input_tokens:,} tokens of prompts, {self.output_tokens:,} of answers)"


@dataclass(frozen=True)
class CostEstimate:
    """What a run's requests will probably cost, and what they can cost at most."""

    requests: int
    typical: Spend
    most: Spend

    def __mul__(self, times: int) -> "CostEstimate":
        return CostEstimate(self.requests * times, self.typical * times, self.most * times)


def priced(settings: Endpoint, input_tokens: int, output_tokens: int) -> Spend:
    """Tokens with their price by the configuration."""
    usd = (input_tokens * settings.usd_per_million_input_tokens + output_tokens * settings.usd_per_million_output_tokens) / 1e6
    return Spend(input_tokens, output_tokens, usd)


def prompt_characters(ask: Ask) -> int:
    """Length of what is sent."""
    return sum(len(message["content"]) for message in ask.messages)


def most(settings: Endpoint, messages: Iterable[Mapping[str, str]]) -> Spend:
    """What a request can cost at most: one byte per token, and the longest answer."""
    prompt = sum(len(message["content"].encode()) + TOKENS_AROUND_A_MESSAGE for message in messages)
    return priced(settings, prompt, settings.max_tokens)


def estimate(asks: Sequence[Ask], settings: Endpoint) -> CostEstimate:
    """What requests will cost if nothing has to be asked again."""
    n_requests, answer_tokens = len(asks), min(TYPICAL_ANSWER_TOKENS, settings.max_tokens)
    prompt_tokens = _tokens(sum(prompt_characters(ask) for ask in asks)) + n_requests * TOKENS_AROUND_A_MESSAGE
    worst = sum((most(settings, ask.messages) for ask in asks), Spend())
    return CostEstimate(n_requests, priced(settings, prompt_tokens, n_requests * answer_tokens), worst)


def estimate_texts(n_texts: int, text_characters: int, answers_instructions: bool, settings: Endpoint) -> CostEstimate:
    """The cost of rating before there are texts, by how many there will be and how many characters each will have. Equal texts, which are
    asked about once, count in full."""
    sample = questions("x" * text_characters, "x" * 80, "x" * 200 if answers_instructions else None)
    return estimate([Ask(question, 0) for question in sample.values()], settings) * n_texts


def actual(settings: Endpoint, characters: int, answer: JudgeAnswer) -> Spend:
    """What an answer cost, by the endpoint's count, or estimated by lengths (`characters`: the prompt's) where that is absent. A question
    that was refused may have been charged for being read (Azure does)."""
    written = 0 if answer.finish_reason == REQUEST_REFUSED else _tokens(len(answer.raw))
    return priced(
        settings,
        _tokens(characters) if answer.prompt_tokens is None else answer.prompt_tokens,
        written if answer.completion_tokens is None else answer.completion_tokens,
    )


def _tokens(characters: int) -> int:
    return round(characters / CHARACTERS_PER_TOKEN)


class _Line(BaseModel, strict=True):
    """A line of the ledger. No cost is below 0 or infinite: it would lift the limit."""

    request: str
    section: str
    settled: bool
    input_tokens: NonNegativeInt
    output_tokens: NonNegativeInt
    usd: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SpendLimitReached(JudgeError):
    """The next request could pass the limit in money or tokens."""


@contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """A file, made where there is none, locked against other jobs until it is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise JudgeError(
                f"{path} cannot be locked ({error}), and without that jobs could pass the spend limit together: put data_dir on a file"
                " system that has locks (flock)"
            ) from error
        yield file


class Budget:
    """The limits of a section of the settings, checked against the ledger in an experiment's data folder."""

    def __init__(self, settings: Endpoint, data: Path) -> None:
        self._settings = settings
        self._ledger = data / LEDGER
        self._read_to = 0
        self._open: dict[str, Spend] = {}
        self.total = Spend()
        """What the experiment has spent, with what is open at its worst, by the lines that were read."""
        self.spent = Spend()
        """This run's share of it, without what is open."""
        self.n_left = 0
        """Questions without an answer, for the message when the limit is reached."""
        self._lost = ""
        if self._ledger.exists():
            with self._ledger.open("rb") as file:
                self._read(file)

    @property
    def open(self) -> Spend:
        """The most that requests can cost whose cost is not known: those under way, and those that were cut off."""
        return sum(self._open.values(), Spend())

    def share(self, request: str, n: int) -> Spend:
        """The share of each of `n` questions in what an open request reserved for them together."""
        reserved = self._open.get(request, Spend())
        return Spend(reserved.input_tokens // n, reserved.output_tokens // n, reserved.usd / n)

    def fits(self, worst: Spend) -> bool:
        """Whether the limits hold even if everything open and this costs the most it can."""
        after = self.total + worst
        limits = ((round(after.usd, USD_DIGITS), self._settings.max_usd), (after.tokens, self._settings.max_total_tokens))
        return all(limit is None or value <= limit for value, limit in limits)

    def reserve(self, worst: Spend) -> str | None:
        """Set aside the most that a request can cost; only then may it be sent. Gives its name, or None where it does not fit."""
        with self._locked() as file:
            return self._add(file, worst) if self.fits(worst) else None

    def settle(self, request: str, cost: Spend) -> None:
        """Note what a request cost. Nothing if another job has settled it."""
        with self._locked() as file:
            if request in self._open:
                self._add(file, cost, settles=request)
                self.spent += cost

    def lose(self, worst: Spend, why: str) -> None:
        """A try brought no answer and may have been charged all the same: counted at its worst. Raises when it cannot be repeated."""
        self._lost = why
        with self._locked() as file:
            self._add(file, worst)
        self.spent += worst
        if not self.fits(Spend()):
            raise self.limit_reached()

    def limit_reached(self) -> SpendLimitReached:
        """The error when the next request does not fit."""
        limits, section = {name: getattr(self._settings, name) for name in ("max_usd", "max_total_tokens")}, self._settings.section
        keys = " and ".join(f"{section}.{name} = {limit}" for name, limit in limits.items() if limit is not None)
        return SpendLimitReached(
            f"the spend limit of {section} is reached: all jobs and runs of the experiment have spent {self.total}, in which"
            f" {len(self._open)} requests of unknown cost count at their worst, {self.open}, and the next request could pass {keys}. At"
            f" least {self.n_left} questions are left; all answers so far are kept and not asked again. Raise that key in the experiment"
            f" file (null: no limit) and run again. {self._ledger} lists what was spent: while nothing runs, you may delete the"
            f" lines of requests that the endpoint did not charge{self._lost and f'. What last came in place of an answer: {self._lost}'}"
        )

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """The ledger, locked against other jobs and read to its end."""
        with locked(self._ledger) as file:
            self._read(file)
            file.seek(self._read_to)
            if rest := file.read():  # a line without its end
                try:
                    _Line.model_validate_json(rest)
                except ValidationError:  # its writer was killed before it sent the request
                    file.truncate(self._read_to)
                else:  # an editor took the end
                    file.write(b"\n")
                    self._count(rest + b"\n")
            yield file

    def _read(self, file: BinaryIO) -> None:
        """Count the whole lines that have come since the last look."""
        file.seek(self._read_to)
        for line in file:
            if line.endswith(b"\n"):
                self._count(line)

    def _add(self, file: BinaryIO, cost: Spend, settles: str | None = None) -> str:
        """Write the line of a new request, or the one that settles a request, and flush it to disk; gives the request's name."""
        request = settles or uuid.uuid4().hex
        values = {"request": request, "section": self._settings.section, "settled": settles is not None, **asdict(cost)}
        line = json.dumps(values).encode() + b"\n"
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
        self._count(line)
        return request

    def _count(self, line: bytes) -> None:
        try:
            noted = _Line.model_validate_json(line)
        except ValidationError:
            raise JudgeError(
                f"{self._ledger}: this line is none of a request and its cost: {line[:200]!r}. Nothing is asked while it is unknown what"
                " was spent: mend the line, or delete it if nothing was, and run again"
            ) from None
        self._read_to += len(line)
        if noted.section == self._settings.section:
            cost = Spend(noted.input_tokens, noted.output_tokens, noted.usd)
            self.total += cost - self._open.pop(noted.request, Spend())
            if not noted.settled:
                self._open[noted.request] = cost
