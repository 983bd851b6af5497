"""The table of faults and attacks in docs/trust.md: each test, or case of a test, that tries one says so with `attack`.

`python tests/attacks.py` writes the table; test_trust.py fails where the page differs. The tests are read, not run.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs/trust.md"
START, END = "<!-- attacks -->\n", "<!-- /attacks -->"
AREAS = (
    "shared storage and git",
    "rows and the texts they were measured on",
    "the part store, kills and disks",
    "code, libraries and models",
    "judges and money",
    "downloads and other untrusted input",
    "processes, users, hosts and clusters",
)


def attack(area: str, fault: str, outcome: str) -> pytest.MarkDecorator:
    """Mark a test, or a case of one (`pytest.param(..., marks=attack(...))`): what is tried, and what comes of it. Literal strings, so
    that the table can be made without running the tests."""
    assert area in AREAS, area
    return pytest.mark.attack(area, fault, outcome)


def attacks() -> Iterator[tuple[str, str, str, str]]:
    """Area, fault, outcome and file of every attack in the tests."""
    for file in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == attack.__name__:
                area, fault, outcome = (ast.literal_eval(argument) for argument in node.args)
                yield area, fault, outcome, file.relative_to(TESTS).as_posix()


def table() -> str:
    """The attacks as Markdown, a table for each area."""
    rows = sorted(attacks(), key=lambda row: (AREAS.index(row[0]), row[3], row[1]))
    lines = []
    for area in AREAS:
        lines += [f"### {area[0].upper()}{area[1:]}", "", "| fault or attack | outcome | test |", "| --- | --- | --- |"]
        lines += [f"| {fault} | {outcome} | `{file}` |" for of, fault, outcome, file in rows if of == area]
        lines.append("")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """The page with its table made anew."""
    before, rest = page.split(START)
    return f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
