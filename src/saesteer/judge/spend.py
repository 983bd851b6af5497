"""What a judge costs: estimated before, counted afterwards (for the limit see saesteer.judge.budget).

Before an answer comes, its tokens are estimates: a token is about four characters of English. What a request can cost at most is counted
by its bytes (a token is at least one) and the longest answer allowed. Afterwards the endpoint's own count is used where it gives one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from saesteer.judge.answers import Answer, Ask
from saesteer.judge.parse import REQUEST_REFUSED
from saesteer.judge.rubric import questions
from saesteer.settings import Endpoint

CHARACTERS_PER_TOKEN = 4.0
"""Of English text; an estimate. Other scripts have fewer."""

TYPICAL_ANSWER_TOKENS = 60
"""Two sentences and the line with the rating; an estimate."""

TOKENS_AROUND_A_MESSAGE = 16
"""A chat template's own tokens; an upper estimate."""


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
class Estimate:
    """Before the run: what so many requests will probably cost, and what they can cost at most."""

    requests: int
    typical: Spend
    most: Spend

    def __mul__(self, times: int) -> "Estimate":
        return Estimate(self.requests * times, self.typical * times, self.most * times)


def priced(settings: Endpoint, input_tokens: int, output_tokens: int) -> Spend:
    """Tokens with their price by the configuration."""
    usd = (input_tokens * settings.usd_per_million_input_tokens + output_tokens * settings.usd_per_million_output_tokens) / 1e6
    return Spend(input_tokens, output_tokens, usd)


def prompt_characters(ask: Ask) -> int:
    """Length of what is sent."""
    return sum(len(message["content"]) for message in ask.messages)


def most(settings: Endpoint, messages: Iterable[Mapping[str, str]]) -> Spend:
    """What a request can cost at most: a byte a token, and the longest answer."""
    prompt = sum(len(message["content"].encode()) + TOKENS_AROUND_A_MESSAGE for message in messages)
    return priced(settings, prompt, settings.max_tokens)


def estimate(asks: Sequence[Ask], settings: Endpoint) -> Estimate:
    """What requests will cost if nothing has to be asked again."""
    n_requests, answer_tokens = len(asks), min(TYPICAL_ANSWER_TOKENS, settings.max_tokens)
    prompt_tokens = _tokens(sum(prompt_characters(ask) for ask in asks)) + n_requests * TOKENS_AROUND_A_MESSAGE
    worst = sum((most(settings, ask.messages) for ask in asks), Spend())
    return Estimate(n_requests, priced(settings, prompt_tokens, n_requests * answer_tokens), worst)


def estimate_texts(n_texts: int, text_characters: int, answers_instructions: bool, settings: Endpoint) -> Estimate:
    """The cost of rating before there are texts: of so many texts of about so many characters. Equal texts, which are asked about once,
    count in full."""
    sample = questions("x" * text_characters, "x" * 80, "x" * 200 if answers_instructions else None)
    return estimate([Ask(question, 0) for question in sample.values()], settings) * n_texts


def actual(settings: Endpoint, characters: int, answer: Answer) -> Spend:
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
