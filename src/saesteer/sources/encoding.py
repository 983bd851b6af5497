"""Text files of users, as editors and spreadsheets save them."""

from pathlib import Path

from saesteer.core.errors import SettingsError


def text_of(path: Path) -> str:
    """What a file in UTF-8 says, without the byte-order mark that some programs put first; another encoding is refused."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is no text in UTF-8 (byte {error.start}): save it in that encoding") from error
