"""What is sent to Neuronpedia: only by an explicit command, with the user's key, and nothing twice.

Each upload leaves a file in a folder, named by the digest of its address and values: without an answer before it is sent, with
Neuronpedia's answer once that is there. An upload with an answer is not sent again; of one with a file and no answer nobody knows whether
it arrived, so the user has to look.
"""

import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from saesteer.core.files import value_digest, write_json
from saesteer.settings import SettingsError
from saesteer.sources.http import (
    COMMAND,
    Client,
    FetchError,
    Policy,
    Refusal,
    Transient,
    Unanswered,
    as_they_come,
    body_of,
    open_client,
    send,
)
from saesteer.sources.neuronpedia.api import ADVICE, KEY_VARIABLE, key_header, object_in
from saesteer.sources.neuronpedia.convert import parse_json

_SHOWN = 300  # characters of the server's words


@dataclass(frozen=True)
class Upload:
    """One request that changes something on Neuronpedia."""

    about: str
    path: str  # of the API, e.g. /api/vector/new
    values: Mapping[str, Any]

    @property
    def body(self) -> bytes:
        """The bytes that are sent."""
        return json.dumps(self.values, ensure_ascii=False, allow_nan=False).encode()

    def url(self, address: str) -> str:
        """Where it goes, at an address of Neuronpedia."""
        return address.rstrip("/") + self.path

    def receipt_path(self, address: str, folder: Path) -> Path:
        """The file that says what came of it."""
        return folder / f"{value_digest([self.url(address), self.values])[:16]}.json"


@dataclass(frozen=True)
class Sent:
    """An upload that Neuronpedia has."""

    upload: Upload
    answer: Any
    before: bool  # by an earlier run


def sent_before(address: str, upload: Upload, folder: Path) -> Sent | None:
    """What came of an upload in an earlier run, None where it was not sent; an error where nobody knows whether it arrived."""
    receipt = upload.receipt_path(address, folder)
    if not receipt.is_file():
        return None
    values = json.loads(receipt.read_text(encoding="utf-8"))
    if "answer" not in values:
        raise SettingsError(
            f"{upload.about}: it was sent to {address} and no answer came, so it may have arrived: look there, then delete {receipt} to"
            ' send it again, or add an "answer" to that file to leave it'
        )
    return Sent(upload, values["answer"], before=True)


def send_all(address: str, uploads: Sequence[Upload], folder: Path, policy: Policy = COMMAND) -> Iterator[Sent]:
    """Send uploads one after the other, each once; `folder` remembers. The first that cannot be made ends it, the ones before stay sent."""
    if not key_header():
        raise SettingsError(f"sending to Neuronpedia needs a key: set the environment variable {KEY_VARIABLE} (Settings on its site)")

    async def results() -> AsyncGenerator[Sent, None]:
        async with open_client(policy) as client:
            for upload in uploads:
                yield sent_before(address, upload, folder) or await _send(client, address, upload, folder)

    yield from as_they_come(results())


async def _send(client: Client, address: str, upload: Upload, folder: Path) -> Sent:
    receipt, url = upload.receipt_path(address, folder), upload.url(address)
    values = {"about": upload.about, "url": url}
    write_json(receipt, values)
    try:
        answer = await send(client, url, _read, key_header(), upload.body)
    except Unanswered as error:
        raise FetchError(
            f"{upload.about}: {error}; it may have arrived at {address}: look there, then delete {receipt} to send it again"
        ) from error
    except FetchError as error:
        receipt.unlink()
        words = f" ({_words(error.body)}){ADVICE.get(error.status, '')}" if isinstance(error, Refusal) else ""
        raise FetchError(f"{upload.about}: {error}{words}; it was not sent") from error
    write_json(receipt, values | {"answer": answer})
    return Sent(upload, answer, before=False)


async def _read(response: httpx2.Response) -> Any:
    try:
        return parse_json(await body_of(response))
    except FetchError as error:
        raise Unanswered(str(error)) from error
    except ValueError as error:
        raise Transient("answered with something that is not JSON") from error


def _words(body: bytes) -> str:
    """What the API says of a refused request."""
    answer = object_in(body) or {}
    said = answer.get("message") or answer.get("error")
    return str(said)[:_SHOWN] if said else "no words of the API's own"
