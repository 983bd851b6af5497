"""Requests to other people's servers: repeated while that may help, a few at a time, no answer taken for another one."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import httpx2
import tenacity

from saesteer.core.errors import SaesteerError

_CONFIGURATION = (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.LocalProtocolError)
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_NOT_DONE = (425, 429, 500, 503)
"""Statuses by which a server says that it did not do what a request wants; a 502 or 504 is a gateway's, which does not know."""

_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")

LARGEST_ANSWER = 2**25
"""Most bytes of an answer, unpacked; a feature with all its max-activating examples has a few hundred thousand."""

T = TypeVar("T")


@dataclass(frozen=True)
class Policy:
    """How much is asked of a server."""

    attempts: int = 7
    """Times that one thing is requested."""
    first_wait: float = 1.0
    """Seconds before the second attempt; doubled each time; as much at most is added at random, so that clients do not march in step."""
    longest_wait: float = 120.0
    """Most seconds between attempts, also where the server asks for more."""
    timeout: float = 60.0
    """Most seconds without a byte."""
    concurrency: int = 6
    """Requests under way at once."""
    give_up_after: int = 20
    """Features in a row that cannot be had before no more are requested."""


COMMAND = Policy(attempts=5, first_wait=0.5, longest_wait=20.0)
"""For what somebody waits for at a terminal."""


class FetchError(SaesteerError):
    """Something that cannot be had; the message says why."""


class Refusal(FetchError):
    """A status that another attempt would get too."""

    def __init__(self, why: str, status: int, body: bytes) -> None:
        super().__init__(why)
        self.status, self.body = status, body


class Transient(FetchError):
    """An answer that another attempt may better."""

    def __init__(self, why: str, response: httpx2.Response | None = None) -> None:
        super().__init__(why)
        self.response = response


class Unanswered(FetchError):
    """A change was sent, and no answer says whether it was made."""


@dataclass(frozen=True)
class Client:
    """What requests share."""

    http: httpx2.AsyncClient
    policy: Policy
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a batch is decoded: one at a time, to bound memory."""
    retries: Counter[str] = field(default_factory=Counter)
    """Reason -> how often a request was repeated."""


@asynccontextmanager
async def open_client(policy: Policy, follow_redirects: bool = False) -> AsyncIterator[Client]:
    """A client for one download; redirects are not followed where a key is sent, since it must not reach other servers."""
    with opening():
        http = httpx2.AsyncClient(timeout=policy.timeout, follow_redirects=follow_redirects)
    async with http:
        yield Client(http, policy)


@contextmanager
def opening() -> Iterator[None]:
    """Say which variables are at fault where a client cannot be opened: it reads proxies and certificates from the environment."""
    try:
        yield
    except Exception as error:
        names = [name for word in (_CERTIFICATES if isinstance(error, OSError) else _PROXIES) for name in (word, word.lower())]
        variables = ", ".join(name for name in names if name in os.environ)
        why = "a SOCKS proxy needs the package socksio: run `pip install socksio`" if isinstance(error, ImportError) else error
        raise FetchError(f"no connection can be opened; correct or unset {variables}: {why}") from error


async def get(
    client: Client,
    url: str,
    read: Callable[[httpx2.Response], Awaitable[T]],
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> T:
    """What `read` makes of the response (open, its body unread); repeated while it raises Transient. A `body` (JSON) is posted: for
    questions only, which may be repeated."""
    return await _with_retries(client, partial(_request, client, url, read, headers or {}, body))


async def send(client: Client, url: str, read: Callable[[httpx2.Response], Awaitable[T]], headers: Mapping[str, str], body: bytes) -> T:
    """Send a request that changes something, which must not be made twice: repeated only while it is certain that it was not made."""

    async def once() -> T:
        try:
            return await _request(client, url, read, headers, body)
        except Transient as error:
            status = None if error.response is None else error.response.status_code
            if status in _NOT_DONE or isinstance(error.__cause__, _NOT_SENT):
                raise
            raise Unanswered(str(error)) from error

    return await _with_retries(client, once)


async def _with_retries(client: Client, once: Callable[[], Awaitable[T]]) -> T:
    def count(state: tenacity.RetryCallState) -> None:
        client.retries[str(_error(state))] += 1

    try:
        return await retrying(client.policy, lambda error: isinstance(error, Transient), count)(once)()
    except Transient as error:
        raise FetchError(f"{error} ({client.policy.attempts} attempts)") from error


def retrying(
    policy: Policy, transient: Callable[[BaseException], bool], before_sleep: Callable[[tenacity.RetryCallState], None]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that repeats a call while it raises a transient error; where that has a `response`, its Retry-After counts."""

    def wait(state: tenacity.RetryCallState) -> float:
        response = getattr(_error(state), "response", None)
        seconds = retry_after(response.headers.get("Retry-After")) if response is not None else None
        growing = tenacity.wait_exponential(multiplier=policy.first_wait, max=policy.longest_wait)
        return (growing(state) if seconds is None else min(seconds, policy.longest_wait)) + random.uniform(0, policy.first_wait)

    return tenacity.retry(
        retry=tenacity.retry_if_exception(transient),
        stop=tenacity.stop_after_attempt(policy.attempts),
        wait=wait,
        before_sleep=before_sleep,
        reraise=True,
    )


def is_transient(status: int) -> bool:
    """Whether the same request may get another status than this one a moment later."""
    return status in (408, 425, 429) or status >= 500


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks to wait, given as seconds or as a date; None where it says nothing readable."""
    from urllib3 import Retry
    from urllib3.exceptions import InvalidHeader

    try:
        return None if header is None else float(Retry().parse_retry_after(header))
    except InvalidHeader:
        return None


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


async def _request(
    client: Client, url: str, read: Callable[[httpx2.Response], Awaitable[T]], headers: Mapping[str, str], body: bytes | None
) -> T:
    content = {} if body is None else {"Content-Type": "application/json"}
    try:
        async with client.http.stream("GET" if body is None else "POST", url, headers={**headers, **content}, content=body) as response:
            if response.status_code == 200:
                return await read(response)
            why = f"{response.status_code} {response.reason_phrase}".strip()
            if is_transient(response.status_code):
                raise Transient(why, response)
            if response.is_redirect:
                why += f": moved to {response.headers.get('location')}; set `addresses` in the configuration accordingly"
            raise Refusal(why, response.status_code, await body_of(response))
    except _CONFIGURATION as error:
        raise FetchError(f"{url} cannot be asked for ({error}): see `addresses` in the configuration") from error
    except (httpx2.TransportError, httpx2.DecodingError) as error:
        raise Transient(f"connection failed or cut ({type(error).__name__})") from error


async def body_of(response: httpx2.Response, most: int = LARGEST_ANSWER) -> bytes:
    """The body of an open response, unpacked; of one that is larger than `most` bytes no more than these are read."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > most:
            await response.aclose()
            raise FetchError(f"{response.url} answers with more than {most / 2**20:g} MiB (unpacked), so it was not read to its end")
    return bytes(body)


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


def as_they_come(results: AsyncGenerator[T, None]) -> Iterator[T]:
    """The results of an asynchronous generator, to a plain loop. Closing it cancels what is under way."""

    async def following() -> T | None:
        return await anext(results, None)

    with asyncio.Runner() as runner:
        while (result := runner.run(following())) is not None:
            yield result
