"""The page on trust says what the tests try, and the mutants of the lines that keep its promises stay current."""

from pathlib import Path

import pytest
from attacks import AREAS, PAGE, attacks, with_table
from mutants.run import broken, mutants

ROOT = Path(__file__).parents[1]


def test_the_page_lists_every_attack_of_the_tests() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page, "give the command `python tests/attacks.py`"


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant["name"])
def test_a_mutant_breaks_a_line_that_is_there(mutant: dict[str, str]) -> None:
    assert broken(mutant, ROOT)
    assert (ROOT / mutant["killed_by"].split()[0].split("::")[0]).is_file()


def test_there_are_attacks_of_every_kind() -> None:
    listed = list(attacks())
    assert len(listed) >= 60
    assert len({fault for _, fault, _, _ in listed}) == len(listed)
    assert {area for area, *_ in listed} == set(AREAS)
