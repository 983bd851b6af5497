"""Downloading what papers published, by pinned address; other bytes than the pinned ones are refused."""

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from saesteer.core.files import file_digest, write_atomically
from saesteer.settings import SettingsError
from saesteer.sources.http import COMMAND, FetchError, Policy, body_of, get, open_client
from saesteer.sources.published import kept_at, published_file

LARGEST_FILE = 2**28
"""Most bytes of a file."""

log = logging.getLogger(__name__)


def fetch_published(
    key: str, address: str, downloads: Path, policy: Policy = COMMAND, stated: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Download the file of a key unless it is there, refuse other bytes than the pinned ones, and give its place.

    `stated` has the digests that the user states (`published_digests`); a file without any is refused.
    `address` is the base of raw.githubusercontent.com's form: {address}/{repo}/{commit}/{path}.
    """
    file, kept = published_file(key), kept_at(key, downloads)
    pinned = file.sha256 or stated.get(key)
    if kept.is_file() and file_digest(kept) == pinned:
        return kept
    url = f"{address}/{file.repo}/{file.commit}/{file.path}"
    try:
        data = asyncio.run(_downloaded(url, policy))
    except FetchError as error:
        raise SettingsError(f"{key}: {url} could not be downloaded ({error}); try again later, or put the file at {kept}") from error
    digest = hashlib.sha256(data).hexdigest()
    if pinned is None:
        raise SettingsError(
            f"{key}: {url} has the SHA-256 {digest}, and the project knows none to compare it with: it is refused, nothing was stored. Make"
            f" sure that it is what was published, and state it in the configuration: `published_digests: {{{key}: {digest}}}`"
        )
    if pinned != digest:
        raise SettingsError(f"{key}: {url} has the SHA-256 {digest}, not the pinned {pinned}: it is refused, nothing was stored")
    write_atomically(kept, lambda partial: partial.write_bytes(data))
    log.info("%s: %d bytes, SHA-256 %s, from %s", key, len(data), digest, url)
    return kept


async def _downloaded(url: str, policy: Policy) -> bytes:
    async with open_client(policy, follow_redirects=True) as client:
        return await get(client, url, partial(body_of, most=LARGEST_FILE))
