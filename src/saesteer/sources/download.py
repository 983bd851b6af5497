"""Downloading what papers published, by pinned address; other bytes than the pinned ones are refused."""

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from saesteer.core.files import file_digest, write_atomically
from saesteer.settings import SettingsError
from saesteer.sources.http import COMMAND, FetchError, Policy, body_of, get, open_client
from saesteer.sources.published import cached_path, published_file

LARGEST_FILE = 2**28
"""Most bytes of a file."""

log = logging.getLogger(__name__)


def fetch_published(key: str, address: str, downloads: Path, policy: Policy = COMMAND, stated: Mapping[str, str] | None = None) -> Path:
    """Download the file of a key unless it is there, refuse other bytes than the pinned ones, and give its place.

    `stated` has the digests that the user states (`published_digests`); a file without any is refused.
    `address` is the base of raw.githubusercontent.com's form: {address}/{repo}/{commit}/{path}.
    """
    file, cached = published_file(key), cached_path(key, downloads)
    pinned = file.sha256 or (stated or {}).get(key)
    if cached.is_file() and file_digest(cached) == pinned:
        return cached

    async def download() -> bytes:
        async with open_client(policy, follow_redirects=True) as client:
            return await get(client, url, lambda response: body_of(response, LARGEST_FILE))

    url = f"{address}/{file.repo}/{file.commit}/{file.path}"
    try:
        data = asyncio.run(download())
    except FetchError as error:
        raise SettingsError(f"{key}: {url} could not be downloaded ({error}); try again later, or put the file at {cached}") from error
    digest = hashlib.sha256(data).hexdigest()
    if pinned is None:
        raise SettingsError(
            f"{key}: {url} has the SHA-256 {digest}, and the project knows none to compare it with: it is refused, nothing was stored. Make"
            f" sure that it is what was published, and state it in the configuration: `published_digests: {{{key}: {digest}}}`"
        )
    if pinned != digest:
        raise SettingsError(f"{key}: {url} has the SHA-256 {digest}, not the pinned {pinned}: it is refused, nothing was stored")
    write_atomically(cached, lambda partial: partial.write_bytes(data))
    log.info("%s: %d bytes, SHA-256 %s, from %s", key, len(data), digest, url)
    return cached
