"""Texts that repeat what the same candidate wrote on other prompts, against a comparison of all pairs as the rule has it."""

import random
import re
from collections.abc import Sequence

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saesteer.analysis.repeats import without_repeats
from saesteer.core.tables import Table
from saesteer.run import Run
from saesteer.settings import Comparison, Sweep
from saesteer.settings.methods import MethodSettings
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS
from saesteer.summaries.summary import counted_ratings

PROMPTS = ["a", "b", "c", "d", "e", "f"]
HALVES = {prompt: place % 2 for place, prompt in enumerate(PROMPTS)}
LEARNT = "the cook salted the soup in the old kitchen."


def scores(texts: list[str | None], score: float | None = 2.0, halves: dict[str, int] = HALVES) -> list[float | None]:
    rows = pl.DataFrame({"prefix_id": PROMPTS[: len(texts)], "text": texts}).with_columns(target=pl.lit("1"))
    return without_repeats(rows.with_columns(judge_score=pl.lit(score, pl.Float64)), ["target"], halves)["judge_score"].to_list()


SAME = dict.fromkeys(PROMPTS, 0)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([LEARNT] * 3, [0, 0, 0]),  # learnt by heart
        ([LEARNT, "seven is an odd number.", LEARNT.upper() + "!"], [0, 2, 0]),  # the first as well as the last
        ([LEARNT, LEARNT.replace("soup", "stew")], [0, 0]),  # six of ten pairs in both
        ([LEARNT, "the cook ate a stew in the new oven."], [2, 2]),  # two of fourteen
        (["", "", None, None], [2, 2, 2, 2]),  # nothing that could be repeated
        (["soup", "Soup.", "stew"], [0, 0, 2]),
    ],
)
def test_what_is_said_on_two_prompts_counts_on_neither(texts: list[str | None], expected: list[float]) -> None:
    assert scores(texts, halves=SAME) == expected


def test_two_of_many_texts_may_be_alike_by_chance() -> None:
    """Of ten prompts, what is said on two of them counts; what is said on three does not."""
    prompts = [str(number) for number in range(10)]
    for alike, score in ((2, 2.0), (3, 0.0)):
        texts = [LEARNT] * alike + [f"text {number} is of words {number * 7}" for number in prompts[alike:]]
        rows = pl.DataFrame({"prefix_id": prompts, "text": texts, "judge_score": 2.0, "target": "1"})
        counted = without_repeats(rows, ["target"], dict.fromkeys(prompts, 0))["judge_score"].to_list()
        assert counted == [score] * alike + [2.0] * (10 - alike)


def test_halves_candidates_and_what_is_not_rated_stay_apart() -> None:
    assert scores([LEARNT, LEARNT]) == [2, 2]  # each in a half of its own
    assert scores([LEARNT, LEARNT, LEARNT]) == [0, 2, 0]
    assert scores([LEARNT, LEARNT], None, SAME) == [None, None]  # missing is missing
    rows = pl.DataFrame({"target": ["1", "2"], "prefix_id": ["a", "b"], "text": LEARNT, "judge_score": 2.0})
    assert without_repeats(rows, ["target"], SAME)["judge_score"].to_list() == [2, 2]
    samples = rows.with_columns(target=pl.lit("1"), prefix_id=pl.lit("a"))
    assert without_repeats(samples, ["target"], SAME)["judge_score"].to_list() == [2, 2]  # two samples of one prompt


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_every_pair_is_compared_whatever_the_order(seed: int) -> None:
    rng = random.Random(seed)
    rows = [
        (rng.choice("12"), prompt, sample, " ".join(rng.choices("abcd", k=rng.randint(0, 5))), rng.choice([None, 0.0, 1.0, 2.0]))
        for prompt in PROMPTS
        for sample in range(2)
    ]
    frame = pl.DataFrame(rows, schema=["target", "prefix_id", "sample", "text", "judge_score"], orient="row")

    def pairs(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text)
        return {(words[i], words[i + 1]) for i in range(len(words) - 1)} or {(word,) for word in words}

    def repeats(row: tuple[str, str, int, str, float | None]) -> bool:
        alike = (other for other in rows if other[0] == row[0] and other[1] != row[1] and HALVES[other[1]] == HALVES[row[1]])
        both = [(pairs(row[3]) & pairs(o[3]), pairs(row[3]) | pairs(o[3])) for o in alike]
        n_repeating = sum(bool(either) and len(shared) / len(either) >= 0.5 for shared, either in both)
        return n_repeating >= max(0.2 * len(both), 1)

    expected = {row[:3]: None if row[4] is None else 0.0 if repeats(row) else row[4] for row in rows}
    counted = without_repeats(frame.sample(fraction=1, shuffle=True, seed=1), ["target"], HALVES)
    assert {row[:3]: row[4] for row in counted.iter_rows()} == expected


def test_ratings_of_a_run_count_within_the_halves_of_its_protocol() -> None:
    """The rows themselves keep the judge's score; of a comparison that chooses on its first prompts the halves are others."""
    keys = {"layer": 3, "method": "feature", "target": "1", "factor": "2", "sample": 0}
    said = [LEARNT, "seven is an odd number.", LEARNT, LEARNT]
    rows = [keys | {"prefix_id": prompt, "text": text, "judge_score": 2.0} for prompt, text in zip(PROMPTS, said, strict=False)]
    tables = {GENERATIONS.name: pl.DataFrame(rows).drop("judge_score"), JUDGEMENTS.name: pl.DataFrame(rows).drop("text")}

    class Rated(Run):
        """A run of these rows alone."""

        def prompts(self) -> dict[str, str]:
            return {prompt: prompt for prompt in PROMPTS[:4]}

        def rows_if_any(self, table: Table, layers: Sequence[int] | None = None, columns: Sequence[str] | None = None) -> pl.DataFrame:
            return tables[table.name]

    sweep, comparison = (
        Sweep.model_construct(),
        Comparison.model_construct(methods=MethodSettings.model_construct(factor_choice="first_half")),
    )
    counted = []
    for experiment in (sweep, comparison):
        run = object.__new__(Rated)
        object.__setattr__(run, "experiment", experiment)
        counted.append(counted_ratings(run).sort("prefix_id")["judge_score"].to_list())
    assert counted == [[0, 2, 0, 2], [2, 2, 0, 0]]
