"""The page on trust names tests that are there, and the mutants of the lines that keep its promises stay current."""

import re
from pathlib import Path

import pytest
from mutants.run import broken, mutants

ROOT = Path(__file__).parents[1]
ATTACKS = re.findall(r"^\| (.+) \| (.+) \| `(.+)::(\w+)` \|$", (ROOT / "docs/trust.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_each_attack_is_listed_once_and_tried_by_a_test_that_is_there() -> None:
    assert len({fault for fault, *_ in ATTACKS}) == len(ATTACKS) >= 154
    for fault, _, file, name in ATTACKS:
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), fault


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant["name"])
def test_a_mutant_breaks_a_line_that_is_there(mutant: dict[str, str]) -> None:
    assert broken(mutant, ROOT)
    assert (ROOT / mutant["killed_by"].split()[0].split("::")[0]).is_file()
