"""The batch API: all questions in one file, answered within a day, at a lower price.

A batch is noted in the answers folder before it is made, and its id as soon as it is known, so an interrupted run finds its batch again
instead of paying for another. A note goes only when its batch's answers are on disk:

    <answers folder>/<fingerprint>/batches/<digest of its keys>.json
"""

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from saesteer.core.files import value_digest, write_json
from saesteer.judge.answers import AnswerBook, Ask, JudgeAnswer, JudgeError
from saesteer.judge.completion import NO_ANSWER, Exchange, Parameters, answer_fields, completion_request, may_be_charged, status_of_error
from saesteer.judge.endpoint import MAX_RETRIES, EndpointAsker, OfEndpoint, check_key
from saesteer.judge.spend import Budget, Spend, actual, locked, most, prompt_characters
from saesteer.settings import Endpoint

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

MOST_REQUESTS = 20_000
"""Requests in one batch: below the 50,000 and the 200 MB that are common limits."""
MOST_LISTED = 5_000
"""Batches among which one of an earlier run is looked for, newest first."""

POLL_SECONDS = 30.0
"""Between two looks at a batch."""

FILE_SECONDS = 900.0
"""Longest wait for a file of requests or results."""

_OVER = ("completed", "failed", "expired", "cancelled")
_GOOD = ("validating", "in_progress", "finalizing", "completed")
_COMPLETIONS: Final = "/v1/chat/completions"

log = logging.getLogger(__name__)


def endpoint_asker(
    settings: Endpoint, environ: Mapping[str, str], data: Path, max_retries: int = MAX_RETRIES, poll_seconds: float = POLL_SECONDS
) -> "EndpointAsker | BatchAsker":
    """A judge behind an endpoint, by batches or one by one as the settings say, with its key from the environment and the budget of the
    experiment whose data folder is `data`. Refuses a missing key."""
    key, budget = check_key(settings, environ), Budget(settings, data)
    if settings.batch:
        return BatchAsker(settings, key, budget, max_retries, poll_seconds)
    return EndpointAsker(settings, key, budget, max_retries)


@dataclass(frozen=True)
class _Note:
    """What is on disk about a batch under way, without address and key."""

    path: Path
    identities: Mapping[str, Mapping[str, Any]]
    """What its answers will be about (Ask.identity), by custom id."""
    request: str
    """Its name in the ledger of costs."""
    batch_id: str | None = None
    """Its own id, once that is known."""

    def write(self) -> None:
        write_json(self.path, {"batch_id": self.batch_id, "request": self.request, "asks": self.identities})


@dataclass(frozen=True)
class BatchAsker(OfEndpoint):
    """Asks by batches of up to `questions_at_once` requests."""

    poll_seconds: float = POLL_SECONDS
    questions_at_once: int = MOST_REQUESTS
    fewest: int = 100
    """Where the limit allows for no more than so many of the questions left, no batch is sent: each may take a day."""

    async def _ask_all(self, client: "AsyncOpenAI", asks: Sequence[Ask], book: AnswerBook) -> None:
        """Collect the noted batches, of this job or another, that hold any of the questions, then send the others."""
        by_id, exchange = {_custom_id(ask): ask for ask in asks}, Exchange(self.settings, book)
        while any(ask.key not in book for ask in asks):
            with locked(book.folder / "batches" / "lock"):  # so that a note without a batch is one of a job that was killed
                notes = list(_notes(book.folder))
                book.refresh()  # after that: a note goes when its answers are on disk
                left = [ask for ask in asks if ask.key not in book]
                notes = await self._under_way(client, [note for note in notes if note.identities.keys() & set(map(_custom_id, left))])
                if left and not notes:
                    affordable, request = self._reserved(left)
                    notes = [await self._sent(client, book, affordable, request, exchange.parameters)] if request else []
            for note in notes:
                await self._collect(client, note, by_id, book, exchange)
        exchange.close()

    async def _under_way(self, client: "AsyncOpenAI", notes: Sequence[_Note]) -> list[_Note]:
        """The notes whose batches were made, with their ids."""
        under_way = []
        for note in notes:
            if batch_id := note.batch_id or await self._listed_id(client, note):
                log.info("judge: batch %s is under way and is waited for", batch_id)
                under_way.append(replace(note, batch_id=batch_id))
            else:  # never made; what was reserved for it still counts, since only the endpoint's bill can tell
                note.path.unlink(missing_ok=True)
        return under_way

    def _reserved(self, asks: Sequence[Ask]) -> tuple[list[Ask], str | None]:
        """As many questions as the limits allow even if each costs the most it can, and the name of their request in the ledger; None where
        another job has reserved since."""
        chosen: list[Ask] = []
        worst = Spend()
        for ask in asks[: self.questions_at_once]:
            more = worst + most(self.settings, ask.messages)
            if not self.budget.fits(more):
                break
            chosen.append(ask)
            worst = more
        self.budget.n_left = len(asks)
        if len(chosen) < min(len(asks), self.fewest):
            raise self.budget.limit_reached()
        return chosen, self.budget.reserve(worst)

    async def _listed_id(self, client: "AsyncOpenAI", note: _Note) -> str | None:
        """The id of a batch that was made by a run that did not live to know it."""
        matching, n_listed = [], 0
        async for batch in client.batches.list(limit=100):  # and the pages that follow
            if (batch.metadata or {}).get("saesteer") == note.request and batch.status in _GOOD:
                matching.append(batch)
            n_listed += 1
            if n_listed >= MOST_LISTED:  # an endpoint may give the same page for ever
                break
        return max(matching, key=lambda batch: batch.created_at).id if matching else None

    async def _sent(self, client: "AsyncOpenAI", book: AnswerBook, asks: Sequence[Ask], reserved: str, parameters: Parameters) -> _Note:
        """Upload the questions for which a request is reserved and make the batch; its note then has its id. Making is never blindly tried
        again: that could pay twice."""
        from saesteer.judge.client import BatchUncertain

        identities = {_custom_id(ask): ask.identity for ask in asks}
        note = _Note(book.folder / "batches" / f"{value_digest(sorted(identities))[:16]}.json", identities, reserved)
        note.write()
        request = {"method": "POST", "url": _COMPLETIONS}
        bodies = {_custom_id(ask): completion_request(self.settings, ask, parameters) for ask in asks}
        lines = [json.dumps({"custom_id": name, **request, "body": body}) for name, body in bodies.items()]
        upload = ("judge.jsonl", "".join(f"{line}\n" for line in lines).encode(), "application/jsonl")
        try:
            file = await client.files.create(file=upload, purpose="batch", timeout=FILE_SECONDS)
            about = {"saesteer": note.request}
            batch = await client.batches.create(input_file_id=file.id, endpoint=_COMPLETIONS, completion_window="24h", metadata=about)
            batch_id: str | None = batch.id
        except BatchUncertain:
            if (batch_id := await self._listed_id(client, note)) is None:
                raise
        except Exception:  # refused: there is no batch
            self.budget.settle(note.request, Spend())
            raise
        log.info("judge: batch %s of %d questions sent", batch_id, len(asks))
        note = replace(note, batch_id=batch_id)
        note.write()
        return note

    async def _collect(self, client: "AsyncOpenAI", note: _Note, by_id: Mapping[str, Ask], book: AnswerBook, exchange: Exchange) -> None:
        """Wait for the batch, store its answers, also those that nobody waits for now, and drop its note once they are on disk.

        A batch that did not answer everything is an error: asking again may cost again, which is the user's to decide.
        """
        batch, lines = await self._ended(client, str(note.batch_id)), list[str]()
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            content = await client.files.content(file, timeout=FILE_SECONDS)
            lines += filter(str.strip, content.text.split("\n"))
        cost, faults = self._read(lines, note, by_id, exchange)
        book.flush()
        self.budget.settle(note.request, cost)
        note.path.unlink(missing_ok=True)
        if batch.status != "completed":
            raise JudgeError(
                f"the batch {batch.id} has {batch.status}: {json.dumps(batch.to_dict().get('errors'))[:300]}; the answers that it gave are"
                f" kept. Run again to send the rest in a new batch, or set {self.settings.section}.batch: false"
            )
        if faults:
            raise JudgeError(
                f"the batch {batch.id} gave no answer to {len(faults)} of {len(note.identities)} questions, the first: {faults[0]}; the"
                f" others are kept. Run again to ask these once more, or set {self.settings.section}.batch: false"
            )

    def _read(self, lines: Sequence[str], note: _Note, by_id: Mapping[str, Ask], exchange: Exchange) -> tuple[Spend, list[str]]:
        """Put a batch's answers into the book. Gives what they cost, and the lines of questions to ask once more."""
        cost, errors, faults, sent = Spend(), list[tuple[str, str, int, Any]](), list[str](), exchange.parameters
        worst = self.budget.share(note.request, len(note.identities))

        def cost_of(name: str, answer: JudgeAnswer) -> Spend:
            if (ask := by_id.get(name)) is None and answer.prompt_tokens is None:  # of an earlier run, by an endpoint that does not count
                return worst
            return actual(self.settings, prompt_characters(ask) if ask else 0, answer)

        for line in lines:
            name, status, body = _parts(line)
            try:
                answer = JudgeAnswer(**note.identities[name], **answer_fields(body))
            except NO_ANSWER:
                errors.append((line, name, status, body))
                continue
            cost += cost_of(name, answer)
            exchange.answered(answer)
        for line, name, status, body in errors:
            text, status = json.dumps(body), status_of_error(body) or status
            if exchange.adapts(sent, status, text):
                continue
            if name in note.identities and (refused := exchange.refused(note.identities[name], status, text)):
                cost += cost_of(name, refused)
                if len(errors) < len(lines):  # others of the same batch were answered
                    exchange.keep()
            else:
                faults.append(line[:300])
                cost += worst if status == 200 and may_be_charged(text.encode()) else Spend()
        return cost, faults

    async def _ended(self, client: "AsyncOpenAI", batch_id: str) -> "Batch":
        """The batch once it is over, however it ended."""
        seen = None
        while (batch := await client.batches.retrieve(batch_id)).status not in _OVER:
            now = (batch.status, batch.request_counts.completed if batch.request_counts else None)
            if now != seen:
                log.info("judge: batch %s is %s, %s answered; this job may be stopped, the next one collects it", batch_id, *now)
                seen = now
            await asyncio.sleep(self.poll_seconds)
        return batch


def _custom_id(ask: Ask) -> str:
    return f"{ask.question.request_id}-{ask.attempt}"


def _parts(line: str) -> tuple[str, int, Any]:
    """Custom id, status and body that a line of a batch's results holds; the status is 0 where there is no response."""
    try:
        values = json.loads(line)
        response = values["response"] or {"status_code": 0}
        return str(values["custom_id"]), response.get("status_code", 200), response.get("body") or values.get("error")
    except NO_ANSWER:
        return "", 0, line


def _notes(folder: Path) -> Iterator[_Note]:
    for path in sorted((folder / "batches").glob("*.json")):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # another job has the answers
            continue
        yield _Note(path, values["asks"], values["request"], values["batch_id"])
