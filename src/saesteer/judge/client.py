"""The `openai` package's client of any compatible endpoint, with a budget that sees every try and a key that no text holds.

Requests, retries (429, 5xx, broken connections, Retry-After) and time-outs are the package's. It takes a second to import, so this module
is imported when there are questions to ask, not before.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai

from saesteer.judge.answers import JudgeError
from saesteer.judge.budget import Budget
from saesteer.judge.endpoint import NO_ANSWER, answer_fields
from saesteer.judge.spend import most
from saesteer.settings import Endpoint
from saesteer.sources.http import LARGEST_ANSWER, FetchError, body_of

SECRET_FROM = 8
"""Keys shorter than this ("none", "EMPTY": servers that need none) are no secrets, and cutting them out would maim answers."""

MOST_OF_A_BATCH = 2**30
"""Most bytes of a batch's file of answers, unpacked."""

_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
_GATEWAY = (502, 504)  # what stands behind the gateway may have answered, and charged
_AGAIN = (408, 409, 429)

log = logging.getLogger(__name__)


class BatchUncertain(JudgeError):
    """The connection broke off while a batch was being made: it may exist, and making another could pay twice."""


@asynccontextmanager
async def open_client(settings: Endpoint, key: str | None, budget: Budget, max_retries: int) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client for one event loop; what it cannot do is raised as a JudgeError that says what to do."""
    http = _Sender(settings, key, budget)
    try:
        async with openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=settings.base_url,
            timeout=settings.timeout_seconds,
            max_retries=max_retries,
            http_client=http,
        ) as client:
            yield client
    except openai.APIStatusError as error:
        raise JudgeError(f"{settings.base_url}: status {error.status_code}: {_advice(settings, error)}") from None
    except openai.APIConnectionError as error:
        cause = error.__cause__
        what = "no connection" if isinstance(cause, _NOT_SENT) else "no answer"
        raise JudgeError(f"{settings.base_url}: {what} ({type(cause).__name__}: {cause}){_tries(error)}") from None


class _Sender(httpx2.AsyncClient):
    """Sends each try of a request. Redirects are not followed: the key goes nowhere else."""

    def __init__(self, settings: Endpoint, key: str | None, budget: Budget) -> None:
        super().__init__(follow_redirects=False)
        self._settings, self._key, self._budget = settings, key, budget

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """The response, with the key cut out of its body; a RequestError, which is retried, where it is none that can be read."""
        try:
            response = await self._answered(request, options)
        except httpx2.RequestError as error:
            log.info("judge: no answer (%s)", type(error).__name__)
            if not isinstance(error, _NOT_SENT):
                self._may_have_been_charged(request)
            raise
        if not response.is_success:
            log.info("judge: status %d", response.status_code)
        if response.status_code in _GATEWAY:
            self._may_have_been_charged(request)
        return response

    async def _answered(self, request: httpx2.Request, options: dict[str, Any]) -> httpx2.Response:
        longest, path = request.extensions["timeout"]["read"], request.url.path
        try:
            async with asyncio.timeout(longest):  # in all, also when bytes keep dripping in
                response = await super().send(request, **options | {"stream": True})
                content = await body_of(response, MOST_OF_A_BATCH if path.endswith("/content") else LARGEST_ANSWER)
        except TimeoutError:
            raise httpx2.ReadTimeout(f"no whole answer within {longest:g} s", request=request) from None
        except FetchError as error:
            raise httpx2.RemoteProtocolError(str(error), request=request) from None
        if self._key and len(self._key) >= SECRET_FROM:
            for spelling in (self._key, self._key.replace("/", "\\/")):  # JSON may escape the slash
                content = content.replace(spelling.encode(), b"[key]")
        headers = {name: value for name, value in response.headers.items() if name not in ("content-encoding", "content-length")}
        response = httpx2.Response(response.status_code, headers=headers, content=content, request=request)
        if response.is_success and not _is_readable(path, content):
            raise httpx2.RemoteProtocolError(f"not the JSON of an answer: {_excerpt(response)}", request=request)
        return response

    def _may_have_been_charged(self, request: httpx2.Request) -> None:
        """Count a try that brought no answer at its worst; raises where it must not be repeated."""
        if request.url.path.endswith("/chat/completions"):
            self._budget.lose(most(self._settings, json.loads(request.content)["messages"]))
        elif request.method == "POST" and request.url.path.endswith("/batches"):
            raise BatchUncertain("the connection broke off while a batch was being made: run again, and it is found or made anew")


def _is_readable(path: str, content: bytes) -> bool:
    """Whether a body is what such a request is answered with; a page with status 200, say, is not."""
    if path.endswith("/content"):
        return True
    try:
        body = json.loads(content)
        if path.endswith("/chat/completions"):
            answer_fields(body)
    except NO_ANSWER:
        return False
    return isinstance(body, dict)


def _advice(settings: Endpoint, error: openai.APIStatusError) -> str:
    """What a status means and what to do. Of 401 and 403 never the text: some endpoints quote the key, or a part of it, there."""
    status, excerpt = error.status_code, _excerpt(error.response)
    if status in (401, 403):
        if settings.key_variable is None:
            return f"the endpoint wants a key: name the environment variable that holds it in {settings.section}.key_variable"
        named = f"the key in the environment variable {settings.key_variable}"
        return f"the endpoint does not accept {named}, or the key may not use {settings.model}"
    if status in (404, 405, 501):
        if settings.batch:
            return (
                f"no batch API here, or it no longer knows {error.request.url.path}: set {settings.section}.batch: false in the"
                " experiment file, and the questions are asked one by one"
            )
        return f"{excerpt}; check {settings.section}.base_url (the address up to /v1) and {settings.section}.model"
    if status in _AGAIN or status >= 500:
        return f"{excerpt}{_tries(error)}"
    return f"{excerpt}; the endpoint does not take such requests, check the settings under {settings.section}"


def _tries(error: openai.APIError) -> str:
    number = int(error.request.headers.get("x-stainless-retry-count", 0)) + 1
    return f", also after {number} tries; all answers so far are kept: run again later"


def _excerpt(response: httpx2.Response) -> str:
    return repr(response.text[:200]) if response.text.strip() else "no text"
