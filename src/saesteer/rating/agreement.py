"""How far two sets of ratings of the same texts agree: two judges, one judge asked twice, a judge and a person, or two persons.

Cohen's kappa with quadratic weights (Cohen 1968): 1 - sum(w * observed) / sum(w * expected), w = (i - j)^2, expected from the two
judges' own frequencies. 1 is full agreement, 0 what chance gives. Texts of one feature (of methods: of one concept) are alike, so the
interval is the jackknife's over features: Student's t with the error that leaving out each of them gives.

People's answers are those that a page of `sheet` has saved.
"""

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from saesteer.core.files import regular_file, value_digest
from saesteer.core.markdown import counted
from saesteer.core.store import MEASURED_ON, sound_parts
from saesteer.core.texts import SINGLE_FEATURE, TEXT_KEYS
from saesteer.core.uncertainty import Interval, interval_columns, student_t
from saesteer.rating.sheet import ASPECTS, RATINGS, rated_texts
from saesteer.run import Run
from saesteer.settings import SettingsError
from saesteer.sources.encoding import json_of
from saesteer.steps.step import is_step

SCHEMA = pl.Schema(
    {
        "aspect": pl.String,  # concept, instruction or fluency
        "n": pl.UInt32,  # texts that both rated
        "n_missing": pl.UInt32,  # texts of both that one or both left unrated
        "n_features": pl.UInt32,  # features (of methods: concepts) of the texts that both rated
        "equal": pl.Float64,  # share of equal ratings; null without texts
        "kappa": pl.Float64,  # quadratic weights; null when a judge's ratings leave chance nothing to disagree about
        "low": pl.Float64,  # interval over features; null with fewer than 2, where chance depends on one alone, or a judge never varies
        "high": pl.Float64,
    }
)

CONFIDENCE = 0.95

SHOWN = 16
"""Characters of each of a judge's settings in its name."""
LARGEST_FILE = 2**20
"""Bytes of a file of answers; the answers to a thousand texts have a twentieth of it."""

_MEASURED = {"text_digest": "generations", "concept_digest": "concepts"}
"""Column -> the step whose row a rating is of: an experiment's texts may be rated for several concepts (`saesteer recommend`)."""

_WEIGHTS = np.subtract.outer(np.arange(3), np.arange(3)).astype(np.float64) ** 2


def pairwise_agreement(judge_folder: Path) -> dict[tuple[str, str], pl.DataFrame]:
    """`agreement` of each pair of judges whose ratings of the same texts are among a judge step's parts; past judges' parts stay there."""
    rated = stored_ratings(judge_folder)
    if len(rated) < 2:
        raise SettingsError(
            f"{judge_folder} holds the ratings of {counted(len(rated), 'judge')}: change `judge` in the experiment"
            " file (another model, or another seed to ask the same one again) and run once more; earlier ratings are kept"
        )
    pairs = itertools.combinations(rated, 2)
    return {(first, second): agreement(rated[first], rated[second], on=(*TEXT_KEYS, *_MEASURED)) for first, second in pairs}


def stored_ratings(judge_folder: Path) -> dict[str, pl.DataFrame]:
    """Judge (its settings and files, in words) -> its JUDGEMENTS rows among all parts of a judge step, with digests of text and concept."""
    judges: dict[str, Mapping[str, Any]] = {}
    rated: dict[str, list[pl.DataFrame]] = {}
    fingerprints = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(judge_folder.glob("*/fingerprint.json"))}
    # The newest version of a judge comes first: versions are only ever raised.
    for path, fingerprint in sorted(fingerprints.items(), key=lambda one: -sum(one[1]["algorithm_versions"].values())):
        parts = [part for layer in sorted(path.parent.glob("layer_*")) for part in sound_parts(layer)]
        digests = {column: pl.col(MEASURED_ON).str.extract(rf"{step}:(\w+)").fill_null("") for column, step in _MEASURED.items()}
        rows = [pl.read_parquet(part).with_columns(**digests).drop(MEASURED_ON) for part in parts]
        if rows:
            files = {name: value for name, value in fingerprint["inputs"].items() if not is_step(name)}  # steps' differ by layer
            digest = value_digest([fingerprint["settings"], files])
            judges[digest] = {"settings": fingerprint["settings"], "files": files}
            rated.setdefault(digest, []).extend(rows)
    names = _names(judges)
    return {
        names[digest]: pl.concat(rows, how="diagonal").unique([*TEXT_KEYS, *_MEASURED], keep="first", maintain_order=True)
        for digest, rows in rated.items()
    }


def _names(judges: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Digest -> the judge's settings in words, long values by their beginning; settings and files in full where two have the same words."""
    short = {digest: _in_words(judge["settings"], SHOWN) for digest, judge in judges.items()}
    n_of_name = Counter(short.values())
    return {
        digest: name if n_of_name[name] == 1 else _in_words(judges[digest]["settings"] | judges[digest]["files"], None)
        for digest, name in short.items()
    }


def _in_words(settings: Mapping[str, Any], shown: int | None) -> str:
    return ", ".join(f"{key} {str(value)[:shown]}" for key, value in settings.items() if value is not None)


def agreement(a: pl.DataFrame, b: pl.DataFrame, on: Sequence[str] = TEXT_KEYS) -> pl.DataFrame:
    """One row an aspect (see SCHEMA) of two JUDGEMENTS tables, over the texts that are in both, by the columns `on`."""
    pairs = a.join(b, on=on, suffix="_b")
    return pl.DataFrame([_aspect_row(pairs, aspect) for aspect in ("concept", "instruction", "fluency")], schema=SCHEMA)


def _aspect_row(pairs: pl.DataFrame, aspect: str) -> dict[str, object]:
    a, b = f"{aspect}_rating", f"{aspect}_rating_b"
    rated = pairs.drop_nulls([a, b])
    of_features = pl.when(method=SINGLE_FEATURE).then("layer")  # a concept is the same one at every layer
    features = rated.select(pl.struct(of_features, "target").rank("dense")).to_series().to_numpy().astype(np.int64) - 1
    n = int(features.max()) + 1 if len(features) else 0
    counts = np.zeros((n, 3, 3))  # [feature, a's rating, b's]
    np.add.at(counts, (features, rated[a].to_numpy(), rated[b].to_numpy()), 1.0)
    kappa = float(weighted_kappa(counts.sum(0)[None])[0])
    return {
        "aspect": aspect,
        "n": rated.height,
        "n_missing": pairs.height - rated.height,
        "n_features": n,
        "equal": (rated[a] == rated[b]).mean(),
        **interval_columns("kappa", kappa if np.isfinite(kappa) else None, jackknife_interval(kappa, counts), ends=""),
    }


def jackknife_interval(kappa: float, counts: Float[np.ndarray, "feature 3 3"]) -> Interval | None:
    """Interval of the kappa of all features' counts together. None for fewer than 2, where kappa is not defined without one of them, and
    where one judge gave all texts the same rating: kappa is 0 then, whatever the other says."""
    n, together = len(counts), counts.sum(0)
    without = weighted_kappa(together - counts)
    varies = all(np.count_nonzero(together.sum(axis)) > 1 for axis in (0, 1))
    if n < 2 or not varies or not np.isfinite([kappa, *without]).all():
        return None
    reach = student_t(CONFIDENCE, n - 1) * float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    return Interval(max(kappa - reach, -1.0), min(kappa + reach, 1.0))


def weighted_kappa(counts: Float[np.ndarray, "draw 3 3"]) -> Float[np.ndarray, " draw"]:
    """Kappa with quadratic weights of tables of counts [first judge's rating, second judge's]; NaN where nothing can differ by chance."""
    n = counts.sum((1, 2))
    chance = counts.sum(2)[:, :, None] * counts.sum(1)[:, None, :]
    observed, expected = (counts * _WEIGHTS).sum((1, 2)), (chance * _WEIGHTS).sum((1, 2))
    return 1 - np.divide(observed * n, expected, out=np.full(len(counts), np.nan), where=expected > 0)


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
    return _judgements(texts.select("id", *TEXT_KEYS).join(ratings, on="id"))


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
    return rated.with_columns(instruction_rating=pl.lit(None, pl.UInt8)).select(*TEXT_KEYS, pl.col("^.*_rating$"))


def _counts(a: pl.DataFrame, b: pl.DataFrame, column: str) -> str:
    """The counts in words: 20 3 0 / 2 9 1 / 0 4 11."""
    pairs = a.join(b, on=TEXT_KEYS, suffix="_b")
    counts = [[pairs.filter(pl.col(column) == x, pl.col(f"{column}_b") == y).height for y in range(3)] for x in range(3)]
    return " / ".join(" ".join(map(str, of_rating)) for of_rating in counts)
