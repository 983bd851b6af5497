"""The neutral prefixes (of a model that answers: instructions) that generations go on from, and their split in two halves.

One half chooses a factor, the other reports.
"""

from pathlib import Path

from saesteer.core.files import text_id
from saesteer.settings import SettingsError
from saesteer.sources.published import instructions, literal_strings


def read_prefixes(path: Path, n: int) -> dict[str, str]:
    """The first n of a file: prefix_id -> prefix, in the file's order.

    A file of one's own has one a line; published ones are a program that assigns a list to `prefixes` (P1's) or a list of instructions in
    JSON (AlpacaEval's).
    """
    readers = {".py": lambda path: literal_strings(path, "prefixes"), ".json": instructions}
    lines = readers.get(path.suffix, _lines)(path)
    repeated = [line for number, line in enumerate(lines) if line in lines[:number]]
    if repeated:
        raise SettingsError(f"{path}: {repeated[0]!r} stands twice; one prefix a line")
    if len(lines) < n:
        raise SettingsError(f"{path} has {len(lines)} prefixes, but n_prefixes (of methods: n_prompts) asks for {n}: lower it or add lines")
    return {text_id(line): line for line in lines[:n]}


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    if empty := [number for number, line in enumerate(lines, start=1) if not line.strip()]:
        raise SettingsError(f"{path}: line {empty[0]} is empty; one prefix a line")
    return lines


def halves(prefixes: dict[str, str]) -> dict[str, int]:
    """prefix_id -> 0 or 1, alternately down the list, so that more prefixes leave the others where they are."""
    return {prefix_id: number % 2 for number, prefix_id in enumerate(prefixes)}
