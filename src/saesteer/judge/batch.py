"""The batch API: all questions in one file, answered within a day, at a lower price.

A batch is noted in the answers folder before it is made, and its id as soon as it is known, so an interrupted run finds its batch again
instead of paying for another. A note goes only when its batch's answers are on disk:

    <answers folder>/<fingerprint>/batches/<digest of its keys>.json
"""

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from saesteer.core.files import value_digest, write_json
from saesteer.judge.answers import Answer, AnswerBook, Ask, Identity, JudgeError
from saesteer.judge.completions import answer_fields, completion_request
from saesteer.judge.endpoint import OfEndpoint
from saesteer.judge.spend import Spend, actual, most, prompt_characters

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

MOST_REQUESTS = 20_000
"""Requests in one batch: below the 50,000 and the 200 MB that are common limits."""

POLL_SECONDS = 30.0
"""Between two looks at a batch."""

FILE_SECONDS = 900.0
"""Longest wait for a file of requests or results."""

_OVER = ("completed", "failed", "expired", "cancelled")
_GOOD = ("validating", "in_progress", "finalizing", "completed")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Note:
    """What is on disk about a batch under way: what its answers will be about, by custom id, and its own id once that is known."""

    path: Path
    identities: Mapping[str, Identity]
    request: str | None
    """Its name in the ledger of costs; a batch that was sent before there was one has none."""
    batch_id: str | None = None

    def write(self) -> None:
        """Address and key are no part of it."""
        about = {custom_id: asdict(identity) for custom_id, identity in self.identities.items()}
        write_json(self.path, {"batch_id": self.batch_id, "request": self.request, "asks": about})


@dataclass(frozen=True)
class BatchAsker(OfEndpoint):
    """Asks by batches of up to `questions_at_once` requests."""

    poll_seconds: float = POLL_SECONDS
    questions_at_once: int = MOST_REQUESTS
    fewest: int = 100
    """Where the limit allows for no more than so many of the questions left, no batch is sent: each may take a day."""

    async def _ask_all(self, client: "AsyncOpenAI", asks: Sequence[Ask], book: AnswerBook) -> None:
        """Collect the noted batches that hold any of the questions, then send the rest."""
        by_id = {_custom_id(ask): ask for ask in asks}
        for note in _notes(book.folder):
            if note.identities.keys() & by_id.keys():
                await self._resume(client, note, by_id, book)
        while left := [ask for ask in asks if ask.key not in book]:
            affordable, worst = self._affordable(left)
            self.budget.n_left = len(left)
            if len(affordable) < min(len(left), self.fewest):
                raise self.budget.limit_reached()
            request = self.budget.reserve(worst)
            if request is None:  # another job has reserved since
                continue
            note = _new_note(book.folder, affordable, request)
            note.write()
            await self._collect(client, await self._made(client, note, affordable), by_id, book)

    def _affordable(self, asks: Sequence[Ask]) -> tuple[list[Ask], Spend]:
        """As many as the limits allow even if each costs the most it can, and what they then cost."""
        chosen: list[Ask] = []
        worst = Spend()
        for ask in asks[: self.questions_at_once]:
            more = worst + most(self.settings, ask.messages)
            if not self.budget.fits(more):
                break
            chosen.append(ask)
            worst = more
        return chosen, worst

    async def _resume(self, client: "AsyncOpenAI", note: _Note, by_id: Mapping[str, Ask], book: AnswerBook) -> None:
        """Collect an earlier run's batch. One that was noted but never made is forgotten; what was reserved for it still counts, since only
        the endpoint's bill can tell whether it never was."""
        batch_id = note.batch_id or await self._listed_id(client, note)
        if batch_id is None:
            note.path.unlink(missing_ok=True)
            return
        log.info("judge: batch %s of an earlier run is found again", batch_id)
        await self._collect(client, replace(note, batch_id=batch_id), by_id, book)

    async def _listed_id(self, client: "AsyncOpenAI", note: _Note) -> str | None:
        """The id of a batch that was made by a run that did not live to know it."""
        listed = (await client.batches.list(limit=100)).data or []
        matching = [batch for batch in listed if (batch.metadata or {}).get("saesteer") == note.path.stem and batch.status in _GOOD]
        return max(matching, key=lambda batch: batch.created_at).id if matching else None

    async def _made(self, client: "AsyncOpenAI", note: _Note, asks: Sequence[Ask]) -> _Note:
        """Upload the questions and make the batch; its note then has its id. Making is never blindly tried again: that could pay twice."""
        from saesteer.judge.client import BatchUncertain

        upload = ("judge.jsonl", self._lines(asks), "application/jsonl")
        try:
            file = await client.files.create(file=upload, purpose="batch", timeout=FILE_SECONDS)
            batch = await client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"saesteer": note.path.stem},
            )
            batch_id: str | None = batch.id
        except BatchUncertain:
            if (batch_id := await self._listed_id(client, note)) is None:
                raise
        except Exception:  # refused: there is no batch
            self.budget.settle(note.request, Spend())
            raise
        log.info("judge: batch %s of %d questions sent", batch_id, len(asks))
        known = replace(note, batch_id=batch_id)
        known.write()
        return known

    def _lines(self, asks: Sequence[Ask]) -> bytes:
        settings = self.settings
        requests = [
            {"custom_id": _custom_id(ask), "method": "POST", "url": "/v1/chat/completions", "body": completion_request(settings, ask)}
            for ask in asks
        ]
        return "".join(json.dumps(request) + "\n" for request in requests).encode()

    async def _collect(self, client: "AsyncOpenAI", note: _Note, by_id: Mapping[str, Ask], book: AnswerBook) -> None:
        """Wait for the batch, store its answers, drop its note once they are on disk, and complain about what it lacks."""
        batch = await self._over(client, str(note.batch_id))
        faults: list[str] = []
        cost = Spend()
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            content = await client.files.content(file, timeout=FILE_SECONDS)
            file_cost, file_faults = self._stored(content.text.split("\n"), note, by_id, book)
            cost, faults = cost + file_cost, faults + file_faults
        book.flush()
        self.budget.settle(note.request, cost)
        note.path.unlink(missing_ok=True)
        _complain(batch, faults, len(note.identities), self.settings.section)

    async def _over(self, client: "AsyncOpenAI", batch_id: str) -> "Batch":
        """The batch once it is over, however it ended."""
        seen = None
        while (batch := await client.batches.retrieve(batch_id)).status not in _OVER:
            now = (batch.status, batch.request_counts.completed if batch.request_counts else None)
            if now != seen:
                log.info("judge: batch %s is %s, %s answered; this job may be stopped, the next one collects it", batch_id, *now)
                seen = now
            await asyncio.sleep(self.poll_seconds)
        return batch

    def _stored(self, lines: Sequence[str], note: _Note, by_id: Mapping[str, Ask], book: AnswerBook) -> tuple[Spend, list[str]]:
        """Put a result file's answers into the book, also those that nobody waits for now. Gives their cost, and the lines without one."""
        cost, faults = Spend(), list[str]()
        for line in filter(str.strip, lines):
            try:
                values = json.loads(line)
                identity = note.identities[values["custom_id"]]
                answer = Answer(**asdict(identity), **answer_fields(values["response"]["body"]))
            except (ValueError, KeyError, TypeError, IndexError):
                faults.append(line[:300])
                continue
            ask = by_id.get(values["custom_id"])
            cost += actual(self.settings, prompt_characters(ask) if ask else 0, answer)
            book.add(answer)
        return cost, faults


def _complain(batch: "Batch", faults: Sequence[str], size: int, section: str) -> None:
    """A batch that did not answer everything is an error: asking again may cost again, which is the user's to decide."""
    if batch.status != "completed":
        raise JudgeError(
            f"the batch {batch.id} has {batch.status}: {json.dumps(batch.to_dict().get('errors'))[:300]}; the answers that it gave are"
            f" kept. Run again to send the rest in a new batch, or set {section}.batch: false"
        )
    if faults:
        raise JudgeError(
            f"the batch {batch.id} gave no answer to {len(faults)} of {size} questions, the first: {faults[0]}; the others are kept. Run"
            f" again to ask these once more, or set {section}.batch: false"
        )


def _custom_id(ask: Ask) -> str:
    return f"{ask.question.request_id}-{ask.attempt}"


def _new_note(folder: Path, asks: Sequence[Ask], request: str) -> _Note:
    identities = {_custom_id(ask): ask.identity for ask in asks}
    return _Note(folder / "batches" / f"{value_digest(sorted(identities))[:16]}.json", identities, request)


def _notes(folder: Path) -> Iterator[_Note]:
    for path in sorted((folder / "batches").glob("*.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        identities = {custom_id: Identity(**identity) for custom_id, identity in values["asks"].items()}
        yield _Note(path, identities, values.get("request"), values["batch_id"])
