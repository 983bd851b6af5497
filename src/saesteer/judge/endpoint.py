"""A judge behind an OpenAI-compatible address, asked one question a request, several at once.

A chat completion as every compatible endpoint takes it: `model`, `messages`, `max_tokens` and `temperature` only, or what a model wants in
place of the last two.
"""

import asyncio
import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from saesteer.judge.answers import AnswerBook, Ask, Asker, JudgeAnswer, JudgeError, answers_fingerprint
from saesteer.judge.completion import Exchange, answer_fields, completion_request
from saesteer.judge.spend import Budget, Spend, actual, estimate, most, prompt_characters
from saesteer.settings import Endpoint

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_RETRIES = 16
"""Times that a request is repeated: about two minutes, with openai's waits of 0.5 to 8 s."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OfEndpoint(Asker):
    """What the two ways of asking an endpoint share. The budget is the experiment's."""

    settings: Endpoint
    key: str | None = field(repr=False)
    budget: Budget
    max_retries: int = MAX_RETRIES

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What its answers depend on besides the questions; batched or not, they are the same."""
        settings = self.settings
        answers = answers_fingerprint("endpoint", settings.model, settings.max_tokens, settings.seed)
        return answers | {"temperature": settings.temperature}

    def expect(self, asks: Sequence[Ask]) -> None:
        """One line before the first request: how many, what they probably cost, and whether the limits allow that."""
        settings, expected = self.settings, estimate(asks, self.settings)
        costs = f"{expected.requests} questions to ask; estimate: {expected.typical}, at most {expected.most}"
        log.info("%s %s: %s (before anything is asked again)", settings.section, settings.model, costs)
        if not self.budget.fits(expected.typical):
            limits = f"max_usd: {settings.max_usd}, max_total_tokens: {settings.max_total_tokens}"
            log.warning("judge: the estimate is above the limit (%s): the run will stop at it, keeping its answers", limits)

    def ask(self, asks: Sequence[Ask], book: AnswerBook) -> None:
        """Ask; each answer goes into the book as it comes. Whatever happens, what was spent is logged."""
        from saesteer.judge.client import open_client

        async def connect_and_ask() -> None:
            async with open_client(self.settings, self.key, self.budget, self.max_retries) as client:
                await self._ask_all(client, asks, book)

        try:
            asyncio.run(connect_and_ask())
        finally:
            log.info("judge: this run has spent %s", self.budget.spent)

    @abstractmethod
    async def _ask_all(self, client: "AsyncOpenAI", asks: Sequence[Ask], book: AnswerBook) -> None: ...


@dataclass(frozen=True)
class EndpointAsker(OfEndpoint):
    """Asks by chat completions, `concurrency` at a time."""

    questions_at_once: int = 1024

    async def _ask_all(self, client: "AsyncOpenAI", asks: Sequence[Ask], book: AnswerBook) -> None:
        """A failure or the limit stops new requests; those under way are waited for, since they are paid for."""
        waiting, running = deque(asks), set[asyncio.Task[None]]()
        exchange, failures = Exchange(self.settings, book), list[BaseException]()
        while running or waiting:
            while waiting and len(running) < self.settings.concurrency:
                if not (request := self.budget.reserve(most(self.settings, waiting[0].messages))):
                    break
                running.add(asyncio.create_task(self._ask_one(client, waiting.popleft(), request, exchange)))
            self.budget.n_left = len(waiting) + len(running)
            if not running:
                raise self.budget.limit_reached()
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            failures += [error for task in done if (error := task.exception())]  # of each: asyncio prints those that nobody looks at
            if failures:
                waiting.clear()
        if failures:
            raise failures[0]
        exchange.close()

    async def _ask_one(self, client: "AsyncOpenAI", ask: Ask, request: str, exchange: Exchange) -> None:
        from openai import APIError

        try:
            answer = await self._answer(client, ask, exchange)
        except (APIError, JudgeError):  # not charged, but for tries that stand in the ledger by themselves; on any other error it may be
            self.budget.settle(request, Spend())
            raise
        self.budget.settle(request, actual(self.settings, prompt_characters(ask), answer))

    async def _answer(self, client: "AsyncOpenAI", ask: Ask, exchange: Exchange) -> JudgeAnswer:
        """The answer, which is then in the book; or that which stands for a refusal."""
        from openai import APIStatusError

        sent = exchange.parameters
        try:
            completion = await client.chat.completions.with_raw_response.create(**completion_request(self.settings, ask, sent))
        except APIStatusError as error:
            status, text = error.status_code, error.response.text
            if exchange.adapts(sent, status, text):
                return await self._answer(client, ask, exchange)
            if refused := exchange.refused(ask.identity, status, text):
                return refused
            raise
        answer = JudgeAnswer(**ask.identity, **answer_fields(completion.http_response.json()))
        exchange.answered(answer)
        return answer


def check_key(settings: Endpoint, environ: Mapping[str, str]) -> str | None:
    """The key, or the one error to show before anything starts: it is missing or cannot be a key. Never shows its value."""
    section, variable = settings.section, settings.key_variable
    try:
        parts = urlsplit(settings.base_url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port or an IPv6 address that is none
        is_address = False
    if not is_address or " " in settings.base_url or not settings.base_url.isprintable():
        raise JudgeError(f"{section}.base_url is no address: write it up to /v1, without spaces, e.g. http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise JudgeError(f"{section}.base_url holds a name, a password or a query: take them out, keys come from the environment only")
    if variable is None:
        return None
    if not variable.isidentifier():  # not shown: it may be the key itself
        raise JudgeError(
            f"{section}.key_variable is no name of an environment variable: write one such as JUDGE_KEY there, and put the key into that"
            " variable. If the key itself stood there, revoke it"
        )
    key = environ.get(variable, "").strip()
    if not key:
        raise JudgeError(
            f"{settings.model} needs a key: set the environment variable {variable}, or name another in {section}.key_variable"
            " (null: the endpoint needs none)"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise JudgeError(f"the environment variable {variable} holds what cannot be a key: spaces or special characters")
    return key
