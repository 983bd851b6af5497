"""The table of faults names tests that are there, and the mutants of the lines that keep the project's promises stay current."""

import csv
from pathlib import Path

import pytest
from mutants.run import broken, mutants

ROOT = Path(__file__).parents[1]
FAULTS = list(csv.DictReader((ROOT / "tests/faults.csv").read_text(encoding="utf-8").splitlines()))
"""What the site's page of faults and attacks shows (docs/conf.py)."""


def test_each_fault_is_listed_once_and_tried_by_a_test_that_is_there() -> None:
    assert len({fault["fault or attack"] for fault in FAULTS}) == len(FAULTS) >= 154
    for fault in FAULTS:
        assert all(fault.values())
        file, _, name = fault["test"].partition("::")
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), fault


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant["name"])
def test_a_mutant_breaks_a_line_that_is_there(mutant: dict[str, str]) -> None:
    assert broken(mutant, ROOT)
    assert (ROOT / mutant["killed_by"].split()[0].split("::")[0]).is_file()
