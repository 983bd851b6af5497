"""The neutral prefixes that generations continue, and their split in two halves: one chooses a factor, the other reports."""

from pathlib import Path

from saesteer.files import text_id
from saesteer.settings import SettingsError


def read_prefixes(path: Path, n: int) -> dict[str, str]:
    """The first n lines of the file: prefix_id -> prefix, in the file's order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    empty = [number for number, line in enumerate(lines, start=1) if not line.strip()]
    repeated = [line for number, line in enumerate(lines) if line in lines[:number]]
    if empty or repeated:
        raise SettingsError(
            f"{path}: " + (f"line {empty[0]} is empty" if empty else f"{repeated[0]!r} stands twice") + "; one prefix a line"
        )
    if len(lines) < n:
        raise SettingsError(f"{path} has {len(lines)} prefixes, but sweep.n_prefixes asks for {n}: lower it or add lines")
    return {text_id(line): line for line in lines[:n]}


def halves(prefixes: dict[str, str]) -> dict[str, int]:
    """prefix_id -> 0 or 1, alternately down the list, so that more prefixes leave the others where they are."""
    return {prefix_id: number % 2 for number, prefix_id in enumerate(prefixes)}
