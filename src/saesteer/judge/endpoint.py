"""A judge behind an OpenAI-compatible address, asked one question a request, several at once."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from saesteer.judge.answers import Answer, AnswerBook, Ask, JudgeError, answers_fingerprint
from saesteer.judge.budget import Budget
from saesteer.judge.completions import answer_fields, completion_request
from saesteer.judge.spend import Spend, actual, estimate, most, prompt_characters
from saesteer.settings import Endpoint

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_RETRIES = 16
"""Times that a request is repeated: about two minutes, with openai's waits of 0.5 to 8 s."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OfEndpoint(ABC):
    """What the two ways of asking an endpoint share. The budget is the experiment's."""

    settings: Endpoint
    key: str | None = field(repr=False)
    budget: Budget
    max_retries: int = MAX_RETRIES

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What its answers depend on besides the questions."""
        return endpoint_fingerprint(self.settings)

    def expect(self, asks: Sequence[Ask]) -> None:
        """One line before the first request: how many, what they probably cost, and whether the limits allow that."""
        settings, expected = self.settings, estimate(asks, self.settings)
        log.info(
            "%s %s: %d questions to ask; estimate: %s, at most %s (before anything is asked again)",
            settings.section,
            settings.model,
            expected.requests,
            expected.typical,
            expected.most,
        )
        if not self.budget.fits(expected.typical):
            limits = f"max_usd: {settings.max_usd}, max_total_tokens: {settings.max_total_tokens}"
            log.warning("judge: the estimate is above the limit (%s): the run will stop at it, keeping its answers", limits)

    def ask(self, asks: Sequence[Ask], book: AnswerBook) -> None:
        """Ask; each answer goes into the book as it comes. Whatever happens, what was spent is logged."""
        try:
            asyncio.run(self._connect_and_ask(asks, book))
        finally:
            log.info("judge: this run has spent %s", self.budget.spent)

    async def _connect_and_ask(self, asks: Sequence[Ask], book: AnswerBook) -> None:
        from saesteer.judge.client import open_client

        async with open_client(self.settings, self.key, self.budget, self.max_retries) as client:
            await self._ask_all(client, asks, book)

    @abstractmethod
    async def _ask_all(self, client: "AsyncOpenAI", asks: Sequence[Ask], book: AnswerBook) -> None: ...


@dataclass(frozen=True)
class EndpointAsker(OfEndpoint):
    """Asks by chat completions, `concurrency` at a time."""

    questions_at_once: int = 1024

    async def _ask_all(self, client: "AsyncOpenAI", asks: Sequence[Ask], book: AnswerBook) -> None:
        """A failure or the limit stops new requests; those under way are waited for, since they are paid for."""
        waiting, running = deque(asks), set[asyncio.Task[None]]()
        failure: BaseException | None = None
        while running or waiting:
            while waiting and len(running) < self.settings.concurrency and (request := self._reserved(waiting[0])):
                running.add(asyncio.create_task(self._ask_one(client, waiting.popleft(), request, book)))
            self.budget.n_left = len(waiting) + len(running)
            if not running:
                raise self.budget.limit_reached()
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            failures = [error for task in done if (error := task.exception())]
            failure = failure or next(iter(failures), None)
            if failure:
                waiting.clear()
        if failure:
            raise failure

    def _reserved(self, ask: Ask) -> str | None:
        return self.budget.reserve(most(self.settings, ask.messages))

    async def _ask_one(self, client: "AsyncOpenAI", ask: Ask, request: str, book: AnswerBook) -> None:
        try:
            completion = await client.chat.completions.with_raw_response.create(**completion_request(self.settings, ask))
        except Exception:  # not a task that is cancelled, whose request may still be charged
            self.budget.settle(request, Spend())  # tries that may have been charged stand in the ledger by themselves
            raise
        answer = Answer(**asdict(ask.identity), **answer_fields(completion.http_response.json()))
        book.add(answer)
        self.budget.settle(request, actual(self.settings, prompt_characters(ask), answer))


def check_key(settings: Endpoint, environ: Mapping[str, str]) -> str | None:
    """The key, or the one error to show before anything starts: it is missing or cannot be a key. Never shows its value."""
    parts = urlsplit(settings.base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise JudgeError(f"{settings.section}.base_url is no address: write it up to /v1, e.g. http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise JudgeError(
            f"{settings.section}.base_url holds a name, a password or a query: take them out, keys come from the environment only"
        )
    if settings.key_variable is None:
        return None
    key = environ.get(settings.key_variable, "").strip()
    if not key:
        raise JudgeError(
            f"{settings.model} needs a key: set the environment variable {settings.key_variable}, or name another in"
            f" {settings.section}.key_variable (null: the endpoint needs none)"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise JudgeError(f"the environment variable {settings.key_variable} holds what cannot be a key: spaces or special characters")
    return key


def endpoint_fingerprint(settings: Endpoint) -> dict[str, Any]:
    """What answers of this endpoint depend on; batched or not, they are the same."""
    return answers_fingerprint("endpoint", settings.model, settings.max_tokens, settings.seed)
