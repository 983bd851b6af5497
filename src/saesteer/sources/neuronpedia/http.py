"""Requests to Neuronpedia: patient, few at once, and never taking another answer for the one that was asked for."""

import asyncio
import json
import logging
import os
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

from saesteer.core.errors import SaesteerError
from saesteer.settings import SettingsError

KEY_VARIABLE = "NEURONPEDIA_API_KEY"
_BUSY = frozenset({408, 425, 429})
_CONFIGURATION = (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError)

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """How much is asked of a server."""

    attempts: int = 7
    """Times that one thing is asked for."""
    first_wait: float = 1.0
    """Seconds before the second attempt; doubled each time; as much at most is added at random, so that clients do not march in step."""
    longest_wait: float = 120.0
    """Most seconds between attempts, also where the server asks for more."""
    timeout: float = 60.0
    """Most seconds without a byte."""
    concurrency: int = 6
    """Requests under way at once."""
    give_up_after: int = 20
    """Features in a row that cannot be had before no more are asked for."""


class FetchError(SaesteerError):
    """Something that cannot be had; the message says why."""


class NotFound(FetchError):
    """Status 404; the body tells a server that knows the question from a page that something else shows."""

    def __init__(self, why: str, body: bytes) -> None:
        super().__init__(why)
        self.body = body


class Transient(FetchError):
    """An answer that another attempt may better."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait  # seconds that the server asks to wait


@dataclass(frozen=True)
class Client:
    """What requests share."""

    http: httpx.AsyncClient
    policy: Policy
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a batch is decoded: one at a time, to bound memory."""
    retries: Counter[str] = field(default_factory=Counter)
    """Reason -> how often something was asked for again."""


@asynccontextmanager
async def open_client(policy: Policy) -> AsyncIterator[Client]:
    """A client for one download; redirects are not followed, since a key must not reach other servers."""
    async with httpx.AsyncClient(timeout=policy.timeout, follow_redirects=False) as http:
        yield Client(http, policy)


def key_header() -> dict[str, str]:
    """The header with the user's key, where there is one in the environment."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise SettingsError(f"the environment variable {KEY_VARIABLE} holds characters that no key has: set it again, or unset it")
    return {"x-api-key": key} if key else {}


async def get(client: Client, url: str, read: Callable[[httpx.Response], Awaitable[T]], headers: Mapping[str, str] | None = None) -> T:
    """What `read` makes of the answer (open, its body unread); asked for again while the answer is none, with growing waits."""

    def count(state: RetryCallState) -> None:
        why = str(_error(state))
        client.retries[why] += 1
        log.debug("%s: %s; attempt %d follows", url, why, state.attempt_number + 1)

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Transient),
        stop=stop_after_attempt(client.policy.attempts),
        wait=_wait(client.policy),
        before_sleep=count,
        reraise=True,
    )
    try:
        return await retrying(_once, client, url, read, headers or {})
    except Transient as error:
        raise FetchError(f"{error} ({client.policy.attempts} attempts)") from error


async def _once(client: Client, url: str, read: Callable[[httpx.Response], Awaitable[T]], headers: Mapping[str, str]) -> T:
    try:
        async with client.http.stream("GET", url, headers=dict(headers)) as response:
            if response.status_code == 404:
                raise NotFound(_status(response), await response.aread())
            _refuse(response)
            return await read(response)
    except _CONFIGURATION as error:
        raise FetchError(f"{url} cannot be asked for ({error}): see `addresses` in the configuration") from error
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise Transient(f"connection failed or cut ({type(error).__name__})") from error


def _refuse(response: httpx.Response) -> None:
    """Raise for any status but 200."""
    status = _status(response)
    if response.status_code in _BUSY or response.status_code >= 500:
        raise Transient(status, retry_after(response.headers.get("retry-after")))
    if response.status_code in (401, 403):
        raise FetchError(f"{status}: access refused; if {KEY_VARIABLE} is set, check it, or unset it (reading needs no key)")
    if response.is_redirect:
        raise FetchError(f"{status}: moved to {response.headers.get('location')}; set `addresses` in the configuration accordingly")
    if response.status_code != 200:
        raise FetchError(status)


def _status(response: httpx.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}".strip()


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks to wait, given as seconds or as a date; None where it says nothing readable."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def _wait(policy: Policy) -> Callable[[RetryCallState], float]:
    backoff = wait_exponential(multiplier=policy.first_wait, max=policy.longest_wait) + wait_random(0, policy.first_wait)

    def wait(state: RetryCallState) -> float:
        told = getattr(_error(state), "wait", None)
        if told is None:
            return backoff(state)
        return min(float(told), policy.longest_wait) + random.uniform(0, policy.first_wait)

    return wait


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


async def read_json(response: httpx.Response) -> Any:
    """The JSON value of an answer; an HTML page, say, is no answer."""
    body = await response.aread()
    try:
        return parse_json(body)
    except ValueError as error:
        kind = response.headers.get("content-type", "something")
        raise Transient(f"answered with {kind.partition(';')[0]} that is not JSON") from error


def parse_json(text: bytes) -> Any:
    """A JSON value, or a ValueError; NaN and Infinity, which are no JSON, are refused."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


async def as_finished(jobs: Iterable[Callable[[], Awaitable[T]]], concurrency: int) -> AsyncGenerator[T, None]:
    """The results of jobs as they finish, at most `concurrency` under way or unread at once. Closing it cancels what is under way."""
    waiting = iter(jobs)
    running: set[asyncio.Future[T]] = set()
    try:
        while True:
            while len(running) < concurrency and (job := next(waiting, None)) is not None:
                running.add(asyncio.ensure_future(job()))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            while done:
                yield done.pop().result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
