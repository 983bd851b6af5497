"""Downloading what papers published, by pinned address; other bytes than the pinned ones are refused."""

import hashlib
import logging
from pathlib import Path

import httpx
from tenacity import before_sleep_log, retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from saesteer.core.files import file_digest, write_atomically
from saesteer.settings import SettingsError
from saesteer.sources.published import kept_at, published_file

log = logging.getLogger(__name__)

TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
"""Status codes that another try may better."""


def fetch_published(key: str, address: str, downloads: Path) -> Path:
    """Download the file of a key unless it is there, refuse other bytes than the pinned ones, and give its place.

    `address` is the base of raw.githubusercontent.com's form: {address}/{repo}/{commit}/{path}.
    """
    file, kept = published_file(key), kept_at(key, downloads)
    if kept.is_file() and file.sha256 in (None, file_digest(kept)):
        return kept
    url = f"{address}/{file.repo}/{file.commit}/{file.path}"
    try:
        data = _downloaded(url)
    except httpx.HTTPError as error:
        raise SettingsError(
            f"{key}: {url} could not be downloaded ({str(error).splitlines()[0]}); try again later, or put the file at {kept}"
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if file.sha256 not in (None, digest):
        raise SettingsError(f"{key}: {url} has the SHA-256 {digest}, not the pinned {file.sha256}: it is refused, nothing was stored")
    write_atomically(kept, lambda partial: partial.write_bytes(data))
    log.info("%s: %d bytes, SHA-256 %s, from %s", key, len(data), digest, url)
    return kept


class _Transient(httpx.HTTPError):
    """An answer that another try may better."""


@retry(
    retry=retry_if_exception_type((httpx.TransportError, _Transient)),
    wait=wait_random_exponential(multiplier=0.5, max=20),
    stop=stop_after_attempt(5),
    before_sleep=before_sleep_log(log, logging.WARNING),
    reraise=True,
)
def _downloaded(url: str) -> bytes:
    response = httpx.get(url, timeout=60, follow_redirects=True)
    if response.status_code in TRANSIENT:
        raise _Transient(f"status {response.status_code}")
    return response.raise_for_status().content
