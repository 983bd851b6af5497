"""The `openai` package's client of any compatible endpoint, with a budget that sees every try and a key that no text holds.

Requests, retries (429, 5xx, broken connections, Retry-After) and time-outs are the package's. It takes a second to import, so this module
is imported when there are questions to ask, not before.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import httpx2
import openai

from saesteer.judge.answers import JudgeError
from saesteer.judge.completion import ALIKE, NO_ANSWER, answer_fields, completion_of, is_about_the_question, may_be_charged, status_of_error
from saesteer.judge.spend import Budget, most
from saesteer.settings import Endpoint
from saesteer.sources.http import LARGEST_ANSWER, FetchError, body_of

SECRET_FROM = 8
"""Keys shorter than this ("none", "EMPTY": servers that need none) are no secrets, and cutting them out would maim answers."""

MOST_OF_A_BATCH = 2**30
"""Most bytes of a batch's file of answers, unpacked."""

SAME_FAULT = 3
"""Bodies in a row that are no answer, in the same way, after which a question is given up."""

_NOT_SENT = (
    *(httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError),
    *(httpx2.UnsupportedProtocol, httpx2.LocalProtocolError),
)
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
        self._faults: deque[type[Exception]] = deque(maxlen=SAME_FAULT)

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """The response, with the key cut out of it; a RequestError, which is retried, where it is none that can be read."""
        try:
            response = await self._received(request, options)
        except httpx2.RequestError as error:
            log.info("judge: no answer (%s)", type(error).__name__)
            if not isinstance(error, _NOT_SENT):
                self._may_have_been_charged(request, str(error))
            raise
        if response.status_code in _GATEWAY:
            self._may_have_been_charged(request, f"status {response.status_code}")
        if response.is_success and not request.url.path.endswith("/content"):
            response = self._read(request, response)
        if not response.is_success:
            log.info("judge: status %d", response.status_code)
        return response

    async def _received(self, request: httpx2.Request, options: dict[str, Any]) -> httpx2.Response:
        longest, path = request.extensions["timeout"]["read"], request.url.path
        try:
            async with asyncio.timeout(longest):  # in all, also when bytes keep dripping in
                response = await super().send(request, **options | {"stream": True})
                content = await body_of(response, MOST_OF_A_BATCH if path.endswith("/content") else LARGEST_ANSWER)
        except TimeoutError:
            raise httpx2.ReadTimeout(f"no whole answer within {longest:g} s", request=request) from None
        except FetchError as error:
            raise httpx2.RemoteProtocolError(str(error), request=request) from None
        headers = [(name, value) for name, value in response.headers.raw if name.lower() not in (b"content-encoding", b"content-length")]
        if self._key and len(self._key) >= SECRET_FROM:
            for spelling in (self._key.encode(), self._key.replace("/", "\\/").encode()):  # JSON may escape the slash
                content = content.replace(spelling, b"[key]")
                headers = [(name, value.replace(spelling, b"[key]")) for name, value in headers]
        return httpx2.Response(response.status_code, headers=headers, content=content, request=request)

    def _read(self, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        """A successful response with a body of JSON; that of an error where the body is one of those."""
        try:
            body = completion_of(response.content)
            if not _is_completion(request):
                if not isinstance(body, dict):
                    raise ValueError("no object")
            elif status := status_of_error(body):
                return httpx2.Response(status, headers=response.headers, content=response.content, request=request)
            else:
                answer_fields(body)
        except NO_ANSWER as error:
            self._unreadable(request, response, type(error))
        self._faults.clear()
        return httpx2.Response(response.status_code, headers=response.headers, content=json.dumps(body).encode(), request=request)

    def _unreadable(self, request: httpx2.Request, response: httpx2.Response, fault: type[Exception]) -> NoReturn:
        """Have a request tried again whose answer cannot be read, unless that has been so too often."""
        excerpt = _excerpt(response)
        if may_be_charged(response.content) or not _is_completion(request):
            self._may_have_been_charged(request, excerpt)
        self._faults.append(fault)
        if _n_tries(request) >= SAME_FAULT == self._faults.count(fault):
            section = self._settings.section
            raise JudgeError(
                f"{self._settings.base_url}: {SAME_FAULT} answers in a row cannot be read, the last: {excerpt}; those before are kept:"
                f" check {section}.base_url (the address up to /v1) and {section}.model"
            )
        raise httpx2.RemoteProtocolError(f"not the JSON of an answer: {excerpt}", request=request)

    def _may_have_been_charged(self, request: httpx2.Request, why: str) -> None:
        """Count a try that brought no answer at its worst; raises where it must not be repeated."""
        if _is_completion(request):
            self._budget.lose(most(self._settings, json.loads(request.content)["messages"]), why)
        elif request.method == "POST" and request.url.path.endswith("/batches"):
            raise BatchUncertain("the connection broke off while a batch was being made: run again, and it is found or made anew")


def _is_completion(request: httpx2.Request) -> bool:
    return request.url.path.endswith("/chat/completions")


def _advice(settings: Endpoint, error: openai.APIStatusError) -> str:
    """What a status means and what to do. Of 401 and 403 never the text: some endpoints quote the key, or a part of it, there."""
    status, excerpt, section = error.status_code, _excerpt(error.response), settings.section
    if _is_completion(error.request) and is_about_the_question(status, error.response.text):
        return f"{excerpt}; it refuses the first {ALIKE} questions alike, so no text is the cause: check {section}.model and its endpoint"
    if error.response.has_redirect_location:
        place = error.response.headers["location"][:200].removesuffix("/chat/completions")
        return f"{excerpt}; the address has moved to {place!r}: write that in {section}.base_url, as the key is sent to no other address"
    if status == 402:
        return f"{excerpt}; the account behind the key has no credit: all answers so far are kept, run again once it has"
    if status in (401, 403):
        if settings.key_variable is None:
            return f"the endpoint wants a key: name the environment variable that holds it in {section}.key_variable"
        named = f"the key in the environment variable {settings.key_variable}"
        return f"the endpoint does not accept {named}, or the key may not use {settings.model}"
    if status in (404, 405, 501):
        if settings.batch:
            return (
                f"no batch API here, or it no longer knows {error.request.url.path}: set {section}.batch: false in the"
                " experiment file, and the questions are asked one by one"
            )
        return f"{excerpt}; check {section}.base_url (the address up to /v1) and {section}.model"
    if status in _AGAIN or status >= 500:
        return f"{excerpt}{_tries(error)}"
    return f"{excerpt}; the endpoint does not take such requests, check the settings under {section}"


def _tries(error: openai.APIError) -> str:
    return f", also after {_n_tries(error.request)} tries; all answers so far are kept: run again later"


def _n_tries(request: httpx2.Request) -> int:
    return int(request.headers.get("x-stainless-retry-count", 0)) + 1


def _excerpt(response: httpx2.Response) -> str:
    return repr(response.text[:200]) if response.text.strip() else "no text"
