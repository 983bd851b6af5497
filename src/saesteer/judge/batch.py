"""The batch API: all questions in one file, answered within a day, at a lower price.

A batch is noted in the answers folder before it is made, and its id as soon as it is known, so an interrupted run finds its batch again
instead of paying for another. A note goes only when its batch's answers are on disk:

    <answers folder>/<fingerprint>/batches/<digest of its keys>.json
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from saesteer.core.files import value_digest, write_json
from saesteer.judge.answers import AnswerBook, Ask, Identity, JudgeError
from saesteer.judge.calls import NotThere, read_json
from saesteer.judge.endpoint import OfEndpoint, completion_request, read_completion
from saesteer.judge.spend import Spend, actual, most, prompt_characters

MOST_REQUESTS = 20_000
"""Requests in one batch: below the 50,000 and the 200 MB that are common limits."""

POLL_SECONDS = 30.0
"""Between two looks at a batch."""

FILE_SECONDS = 900.0
"""Longest wait for a file of requests or results."""

_OVER = ("completed", "failed", "expired", "cancelled")
_GOOD = ("validating", "in_progress", "finalizing", "completed")

log = logging.getLogger(__name__)


class _Uncertain(Exception):
    """The connection broke off while a batch was being made: it may exist."""


@dataclass(frozen=True)
class _Note:
    """What is on disk about a batch under way: what its answers will be about, by custom id, and its own id once that is known."""

    path: Path
    identities: Mapping[str, Identity]
    batch_id: str | None = None

    def write(self) -> None:
        """Address and key are no part of it."""
        about = {custom_id: asdict(identity) for custom_id, identity in self.identities.items()}
        write_json(self.path, {"batch_id": self.batch_id, "asks": about})


@dataclass(frozen=True)
class BatchAsker(OfEndpoint):
    """Asks by batches of up to `questions_at_once` requests."""

    poll_seconds: float = POLL_SECONDS
    questions_at_once: int = MOST_REQUESTS
    fewest: int = 100
    """Where the limit allows for no more than so many of the questions left, no batch is sent: each may take a day."""

    async def _ask_all(self, asks: Sequence[Ask], book: AnswerBook) -> None:
        """Collect the noted batches that hold any of the questions, then send the rest."""
        by_id = {_custom_id(ask): ask for ask in asks}
        async with self.endpoint.client() as client:
            for note in _notes(book.folder):
                if note.identities.keys() & by_id.keys():
                    await self._resume(client, note, by_id, book)
            while left := [ask for ask in asks if ask.key not in book]:
                affordable = self._affordable(left)
                if len(affordable) < min(len(left), self.fewest):
                    raise self.budget.limit_reached(len(left))
                note = _new_note(book.folder, affordable)
                note.write()
                await self._collect(client, await self._made(client, note, affordable), by_id, book)

    def _affordable(self, asks: Sequence[Ask]) -> list[Ask]:
        """As many as the limits allow even if each costs the most it can."""
        chosen: list[Ask] = []
        worst = Spend()
        for ask in asks[: self.questions_at_once]:
            worst += most(self.endpoint.settings, ask)
            if not self.budget.fits(worst):
                break
            chosen.append(ask)
        return chosen

    async def _resume(self, client: httpx.AsyncClient, note: _Note, by_id: Mapping[str, Ask], book: AnswerBook) -> None:
        """Collect an earlier run's batch. One that was noted but never made is forgotten."""
        batch_id = note.batch_id or await self._found(client, note)
        if batch_id is None:
            note.path.unlink(missing_ok=True)
            return
        log.info("judge: batch %s of an earlier run is found again", batch_id)
        await self._collect(client, replace(note, batch_id=batch_id), by_id, book)

    async def _found(self, client: httpx.AsyncClient, note: _Note) -> str | None:
        """The id of a batch that was made by a run that did not live to know it."""
        listed = await self._call(client, "GET", "batches", params={"limit": 100})
        found = [batch for batch in listed.get("data") or [] if (batch.get("metadata") or {}).get("saesteer") == note.path.stem]
        good = sorted((batch for batch in found if batch.get("status") in _GOOD), key=lambda batch: batch.get("created_at") or 0)
        return str(good[-1]["id"]) if good else None

    async def _made(self, client: httpx.AsyncClient, note: _Note, asks: Sequence[Ask]) -> _Note:
        """Upload the questions and make the batch; its note then has its id. Making is never blindly tried again: that could pay twice."""
        upload = {"file": ("judge.jsonl", self._lines(asks), "application/jsonl")}
        file = await self._call(client, "POST", "files", seconds=FILE_SECONDS, data={"purpose": "batch"}, files=upload)
        wanted = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        try:
            batch = await self._call(client, "POST", "batches", on_lost=_stop, json={**wanted, "metadata": {"saesteer": note.path.stem}})
            batch_id = str(batch["id"])
        except _Uncertain:
            found = await self._found(client, note)
            if found is None:
                raise JudgeError("the connection broke off while a batch was being made: run again, and it is found or made anew") from None
            batch_id = found
        log.info("judge: batch %s of %d questions sent", batch_id, len(asks))
        known = replace(note, batch_id=batch_id)
        known.write()
        return known

    def _lines(self, asks: Sequence[Ask]) -> bytes:
        settings = self.endpoint.settings
        requests = [
            {"custom_id": _custom_id(ask), "method": "POST", "url": "/v1/chat/completions", "body": completion_request(settings, ask)}
            for ask in asks
        ]
        return "".join(json.dumps(request) + "\n" for request in requests).encode()

    async def _collect(self, client: httpx.AsyncClient, note: _Note, by_id: Mapping[str, Ask], book: AnswerBook) -> None:
        """Wait for the batch, store its answers, drop its note once they are on disk, and complain about what it lacks."""
        batch = await self._over(client, str(note.batch_id))
        faults = [fault for file in _files(batch) async for fault in self._stored(client, file, note, by_id, book)]
        book.flush()
        note.path.unlink(missing_ok=True)
        _complain(batch, faults, len(note.identities))

    async def _over(self, client: httpx.AsyncClient, batch_id: str) -> dict[str, Any]:
        """The batch once it is over, however it ended."""
        seen = None
        while (batch := await self._call(client, "GET", f"batches/{batch_id}")).get("status") not in _OVER:
            now = (batch.get("status"), (batch.get("request_counts") or {}).get("completed"))
            if now != seen:
                log.info("judge: batch %s is %s, %s answered; this job may be stopped, the next one collects it", batch_id, *now)
                seen = now
            await asyncio.sleep(self.poll_seconds)
        return batch

    async def _stored(
        self, client: httpx.AsyncClient, file: str, note: _Note, by_id: Mapping[str, Ask], book: AnswerBook
    ) -> AsyncIterator[str]:
        """Put a result file's answers into the book, also those that nobody waits for now; yields what is wrong with the others."""
        for line in await self._call(client, "GET", f"files/{file}/content", read=_read_lines, seconds=FILE_SECONDS):
            custom_id = line.get("custom_id")
            if custom_id not in note.identities:
                yield f"an answer to {custom_id!r}, which was not asked"
                continue
            try:
                answer = read_completion(note.identities[custom_id], line["response"]["body"])
            except (ValueError, KeyError, TypeError, IndexError):
                yield json.dumps(line.get("error") or line.get("response"))[:200]
                continue
            ask = by_id.get(custom_id)
            self.budget.end(Spend(), actual(self.endpoint.settings, prompt_characters(ask) if ask else 0, answer))
            book.add(answer)

    async def _call(self, client: httpx.AsyncClient, method: str, path: str, read: Any = read_json, **content: Any) -> Any:
        try:
            return await self.endpoint.call(client, method, path, read, **content)
        except NotThere:
            raise JudgeError(
                f"{self.endpoint.settings.base_url}: no batch API here, or it no longer knows {path}: set judge.batch: false in the"
                " experiment file, and the questions are asked one by one"
            ) from None


def _complain(batch: Mapping[str, Any], faults: Sequence[str], size: int) -> None:
    """A batch that did not answer everything is an error: asking again may cost again, which is the user's to decide."""
    if batch["status"] != "completed":
        raise JudgeError(
            f"the batch {batch['id']} has {batch['status']}: {json.dumps(batch.get('errors'))[:300]}; the answers that it gave are kept."
            " Run again to send the rest in a new batch, or set judge.batch: false"
        )
    if faults:
        raise JudgeError(
            f"the batch {batch['id']} gave no answer to {len(faults)} of {size} questions, the first: {faults[0]}; the others are kept. Run"
            " again to ask these once more, or set judge.batch: false"
        )


def _stop() -> None:
    raise _Uncertain


def _custom_id(ask: Ask) -> str:
    return f"{ask.question.request_id}-{ask.attempt}"


def _new_note(folder: Path, asks: Sequence[Ask]) -> _Note:
    identities = {_custom_id(ask): ask.identity for ask in asks}
    return _Note(folder / "batches" / f"{value_digest(sorted(identities))[:16]}.json", identities)


def _notes(folder: Path) -> Iterator[_Note]:
    for path in sorted((folder / "batches").glob("*.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        identities = {custom_id: Identity(**identity) for custom_id, identity in values["asks"].items()}
        yield _Note(path, identities, values["batch_id"])


def _files(batch: Mapping[str, Any]) -> list[str]:
    return [str(batch[name]) for name in ("output_file_id", "error_file_id") if batch.get(name)]


def _read_lines(text: str) -> list[dict[str, Any]]:
    return [read_json(line) for line in text.split("\n") if line.strip()]
