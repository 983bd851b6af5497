"""A judge behind an OpenAI-compatible address, asked one question a request, several at once.

Requests hold `model`, `messages`, `max_tokens` and `temperature` only: what every compatible endpoint takes.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from saesteer.judge.answers import Answer, AnswerBook, Ask, Identity, answers_fingerprint
from saesteer.judge.calls import Endpoint, read_json
from saesteer.judge.spend import Budget, Spend, actual, estimate, most, prompt_characters
from saesteer.settings import EndpointJudge

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OfEndpoint(ABC):
    """What the two ways of asking an endpoint share. The budget is that of one job's run."""

    endpoint: Endpoint
    budget: Budget

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What its answers depend on besides the questions."""
        return endpoint_fingerprint(self.endpoint.settings)

    def expect(self, asks: Sequence[Ask]) -> None:
        """Log the estimate."""
        log_estimate(self.endpoint.settings, asks)

    def ask(self, asks: Sequence[Ask], book: AnswerBook) -> None:
        """Ask; each answer goes into the book as it comes. Whatever happens, what was spent is logged."""
        try:
            asyncio.run(self._ask_all(asks, book))
        finally:
            log.info("judge: this run has spent %s", self.budget.spent)

    @abstractmethod
    async def _ask_all(self, asks: Sequence[Ask], book: AnswerBook) -> None: ...


@dataclass(frozen=True)
class EndpointAsker(OfEndpoint):
    """Asks by chat completions, `concurrency` at a time."""

    questions_at_once: int = 1024

    async def _ask_all(self, asks: Sequence[Ask], book: AnswerBook) -> None:
        """A failure or the limit stops new requests; those under way are waited for, since they are paid for."""
        waiting, running = deque(asks), set[asyncio.Task[None]]()
        failure: BaseException | None = None
        async with self.endpoint.client() as client:
            while running or waiting:
                while waiting and len(running) < self.endpoint.settings.concurrency and self._affordable(waiting[0]):
                    ask = waiting.popleft()
                    running.add(asyncio.create_task(self._ask_one(client, ask, book, len(waiting))))
                if not running:
                    raise self.budget.limit_reached(len(waiting))
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                failures = [error for task in done if (error := task.exception())]
                failure = failure or next(iter(failures), None)
                if failure:
                    waiting.clear()
        if failure:
            raise failure

    def _affordable(self, ask: Ask) -> bool:
        return self.budget.fits(most(self.endpoint.settings, ask))

    async def _ask_one(self, client: httpx.AsyncClient, ask: Ask, book: AnswerBook, left: int) -> None:
        settings, worst = self.endpoint.settings, most(self.endpoint.settings, ask)
        cost = Spend()
        self.budget.start(worst)
        try:
            answer = await self.endpoint.call(
                client,
                "POST",
                "chat/completions",
                lambda text: read_completion(ask.identity, read_json(text)),
                lambda: self.budget.lose(worst, left + 1),
                json=completion_request(settings, ask),
            )
            cost = actual(settings, prompt_characters(ask), answer)
            book.add(answer)
        finally:
            self.budget.end(worst, cost)


def endpoint_fingerprint(settings: EndpointJudge) -> dict[str, Any]:
    """What answers of this endpoint depend on; batched or not, they are the same."""
    return answers_fingerprint(settings.kind, settings.model, settings.max_tokens, settings.seed)


def completion_request(settings: EndpointJudge, ask: Ask) -> dict[str, Any]:
    """The body of a chat completion."""
    return {"model": settings.model, "messages": ask.messages, "max_tokens": settings.max_tokens, "temperature": 0}


def read_completion(identity: Identity, body: Mapping[str, Any]) -> Answer:
    """The answer in a chat completion's body; ValueError, KeyError, TypeError or IndexError when it is none."""
    choice = body["choices"][0]
    message = choice["message"]
    content, refusal, finish = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    if refusal and not content:
        content, finish = refusal, "refusal"
    if not isinstance(content, str | None) or not isinstance(finish, str | None):
        raise ValueError("the message is no text")
    usage = body.get("usage") or {}
    model = body.get("model")
    return Answer(
        **asdict(identity),
        # An escaped half of a surrogate pair is valid JSON but no text that could be stored.
        raw=(content or "").encode("utf-8", "replace").decode(),
        finish_reason=finish,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        model=model if isinstance(model, str) else None,
    )


def log_estimate(settings: EndpointJudge, asks: Sequence[Ask]) -> None:
    """One line before the first request: how many, what they probably cost, and whether the limits allow that."""
    expected = estimate(asks, settings)
    log.info(
        "judge %s: %d questions to ask; estimate: %s, at most %s (before anything is asked again)",
        settings.model,
        expected.requests,
        expected.typical,
        expected.most,
    )
    if not Budget(settings).fits(expected.typical):
        log.warning(
            "judge: the estimate is above the limit (max_usd: %s, max_total_tokens: %s): the run will stop at it, keeping its answers",
            settings.max_usd,
            settings.max_total_tokens,
        )


def _count(value: Any) -> int | None:
    """A token count as reported; None when it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 else None
