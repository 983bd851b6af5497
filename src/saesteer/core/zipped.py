"""How much compressed data from elsewhere may unpack to."""

import zipfile
from pathlib import Path

LARGEST_RATIO = 200
"""Most bytes that a compressed one may stand for: texts have some 10, JSON of activations some 40, and a few bytes can be made to stand for
a thousand times as many."""


def zip_fault(file: Path) -> str | None:
    """Why a zip archive is not read; None where it may be. Readers stop at the sizes that its directory gives."""
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        return f"it is no zip archive that can be read ({error})"
    if unpacked > LARGEST_RATIO * file.stat().st_size:
        return f"it unpacks to {unpacked / 2**20:.0f} MiB, more than {LARGEST_RATIO} times its size, so it is not read"
    return None
