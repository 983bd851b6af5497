"""The answers that a page of `sheet` has saved, and how far they agree with the judge and with one another."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from saesteer.core.errors import SettingsError
from saesteer.core.files import regular_file
from saesteer.judge.agreement import agreement
from saesteer.rating.sheet import ASPECTS, RATINGS, rated_texts
from saesteer.run import Run
from saesteer.sources.encoding import json_of
from saesteer.steps.judge import JUDGEMENTS

LARGEST_FILE = 2**20
"""Bytes; the answers to a thousand texts have a twentieth of it."""


class _Answers(BaseModel):
    """A saved file: digest of a text -> aspect -> rating; what was skipped is left out."""

    model_config = ConfigDict(extra="forbid", strict=True)
    form: Literal["saesteer ratings 1"]
    experiment: Annotated[str, StringConstraints(max_length=200)]
    answers: Annotated[
        dict[
            Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")],
            dict[Literal["concept", "fluency"], Annotated[int, Field(ge=0, le=2)]],
        ],
        Field(min_length=1),
    ]


def read_answers(path: Path, experiment: str, texts: pl.DataFrame) -> pl.DataFrame:
    """JUDGEMENTS rows of a rater, from a saved file, of some of an experiment's `rated_texts`."""
    with regular_file(path).open("rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise SettingsError(f"{path} has more than {LARGEST_FILE} bytes: it is no file of answers that a rating sheet has saved")
    try:
        saved = _Answers.model_validate(json_of(data, f"{path} is no file of answers that a rating sheet has saved"))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))[:80]
        raise SettingsError(f"{path} is no file of answers that a rating sheet has saved: {where!r}: {problem['msg']}") from None
    if saved.experiment != experiment:
        raise SettingsError(f"{path} has answers to texts of experiment {saved.experiment!r}, not of {experiment}: name that experiment")
    if unknown := sorted(saved.answers.keys() - set(texts["id"])):
        raise SettingsError(
            f"{path} has answers to {len(unknown)} texts that {experiment} does not hold, the first is {unknown[0]}: texts or concepts were"
            f" made anew since the sheet was written; write another one (`saesteer rate {experiment}`) and have it rated"
        )
    by_text = [(text, ratings.get("concept"), ratings.get("fluency")) for text, ratings in saved.answers.items()]
    ratings = pl.DataFrame(by_text, schema={"id": pl.String} | dict.fromkeys(RATINGS, pl.UInt8), orient="row")
    return _judgements(texts.select("id", *JUDGEMENTS.keys).join(ratings, on="id"))


def compared(run: Run, files: Sequence[Path]) -> dict[tuple[str, str], pl.DataFrame]:
    """How far the judge and each rater, and each two raters, agree: `agreement` of each aspect over the texts that both were given; and, by
    the first's ratings 0, 1 and 2, how many of these texts the second rated 0, 1 and 2."""
    texts = rated_texts(run)
    raters = {"judge": _judgements(texts)} | {str(path): read_answers(path, run.name, texts) for path in files}
    tables = {}
    for (first, a), (second, b) in itertools.combinations(raters.items(), 2):
        rows = agreement(a, b).filter(pl.col("aspect").is_in(ASPECTS))
        counts = [_counts(a, b, f"{aspect}_rating") for aspect in rows["aspect"]]
        tables[first, second] = rows.with_columns(pl.Series("counts", counts))
    return tables


def _judgements(rated: pl.DataFrame) -> pl.DataFrame:
    """The rows with those columns of JUDGEMENTS that agreement reads; nobody is asked about an instruction here."""
    return rated.with_columns(instruction_rating=pl.lit(None, pl.UInt8)).select(*JUDGEMENTS.keys, pl.col("^.*_rating$"))


def _counts(a: pl.DataFrame, b: pl.DataFrame, column: str) -> str:
    """The counts in words: 20 3 0 / 2 9 1 / 0 4 11."""
    pairs = a.join(b, on=JUDGEMENTS.keys, suffix="_b")
    counts = [[pairs.filter(pl.col(column) == x, pl.col(f"{column}_b") == y).height for y in range(3)] for x in range(3)]
    return " / ".join(" ".join(map(str, of_rating)) for of_rating in counts)
