"""How far two sets of ratings of the same texts agree: two judges, one judge asked twice, or the shipped world's oracle against a judge.

Cohen's kappa with quadratic weights (Cohen 1968): 1 - sum(w * observed) / sum(w * expected), w = (i - j)^2, expected from the two
judges' own frequencies. 1 is full agreement, 0 what chance gives. Texts of one feature (of methods: of one concept) are alike, so the
interval is the jackknife's over features: Student's t with the error that leaving out each of them gives.
"""

import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.core.markdown import counted
from saesteer.core.store import MEASURED_ON, sound_parts
from saesteer.core.texts import TEXT_KEYS
from saesteer.core.uncertainty import Interval, interval_columns, student_t
from saesteer.settings import SettingsError

SCHEMA = pl.Schema(
    {
        "aspect": pl.String,  # concept, instruction or fluency
        "n": pl.UInt32,  # texts that both rated
        "n_missing": pl.UInt32,  # texts of both that one or both left unrated
        "n_features": pl.UInt32,  # features (of methods: concepts) of the texts that both rated
        "equal": pl.Float64,  # share of equal ratings; null without texts
        "kappa": pl.Float64,  # quadratic weights; null when a judge's ratings leave chance nothing to disagree about
        "low": pl.Float64,  # interval over features; null with fewer than 2, and where chance depends on one alone
        "high": pl.Float64,
    }
)

CONFIDENCE = 0.95

_TEXT = "text_digest"

_WEIGHTS = np.subtract.outer(np.arange(3), np.arange(3)).astype(np.float64) ** 2

log = logging.getLogger(__name__)


def pairwise_agreement(judge_folder: Path) -> dict[tuple[str, str], pl.DataFrame]:
    """`agreement` of each pair of judges whose ratings of the same texts are among a judge step's parts; past judges' parts stay there."""
    rated = stored_ratings(judge_folder)
    if len(rated) < 2:
        raise SettingsError(
            f"{judge_folder} holds the ratings of {counted(len(rated), 'judge')}: change `judge` in the experiment"
            " file (another model, or another seed to ask the same one again) and run once more; earlier ratings are kept"
        )
    pairs = itertools.combinations(rated, 2)
    return {(first, second): agreement(rated[first], rated[second], on=(*TEXT_KEYS, _TEXT)) for first, second in pairs}


def stored_ratings(judge_folder: Path) -> dict[str, pl.DataFrame]:
    """Judge (its settings, in words) -> its JUDGEMENTS rows among all parts of a judge step, with the digest of the text of each."""
    rated: dict[str, list[pl.DataFrame]] = {}
    for path in sorted(judge_folder.glob("*/fingerprint.json")):
        fingerprint = json.loads(path.read_text(encoding="utf-8"))
        parts = [part for layer in sorted(path.parent.glob("layer_*")) for part in sound_parts(layer)]
        if MEASURED_ON not in fingerprint:
            log.warning("%s: its ratings do not say which texts they are about, so they are left out", path.parent)
            continue
        name = ", ".join(f"{key} {str(value)[:16]}" for key, value in fingerprint["settings"].items() if value is not None)
        text = pl.col(MEASURED_ON).str.extract(r"generations:(\w+)").alias(_TEXT)
        rows = [pl.read_parquet(part).with_columns(text).drop(MEASURED_ON) for part in parts]
        rated.setdefault(name, []).extend(rows)
    return {name: pl.concat(rows).unique([*TEXT_KEYS, _TEXT], keep="first", maintain_order=True) for name, rows in rated.items() if rows}


def agreement(a: pl.DataFrame, b: pl.DataFrame, on: Sequence[str] = TEXT_KEYS) -> pl.DataFrame:
    """One row an aspect (see SCHEMA) of two JUDGEMENTS tables, over the texts that are in both, by the columns `on`."""
    pairs = a.join(b, on=on, suffix="_b")
    return pl.DataFrame([_aspect_row(pairs, aspect) for aspect in ("concept", "instruction", "fluency")], schema=SCHEMA)


def _aspect_row(pairs: pl.DataFrame, aspect: str) -> dict[str, object]:
    a, b = f"{aspect}_rating", f"{aspect}_rating_b"
    rated = pairs.drop_nulls([a, b])
    features = rated.select(pl.struct("layer", "target").rank("dense")).to_series().to_numpy().astype(np.int64) - 1
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
    """Interval of the kappa of all features' counts together; None for fewer than 2, and where kappa is not defined without one of them."""
    n = len(counts)
    without = weighted_kappa(counts.sum(0) - counts)
    if n < 2 or not np.isfinite([kappa, *without]).all():
        return None
    reach = student_t(CONFIDENCE, n - 1) * float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    return Interval(max(kappa - reach, -1.0), min(kappa + reach, 1.0))


def weighted_kappa(counts: Float[np.ndarray, "draw 3 3"]) -> Float[np.ndarray, " draw"]:
    """Kappa with quadratic weights of tables of counts [first judge's rating, second judge's]; NaN where nothing can differ by chance."""
    n = counts.sum((1, 2))
    chance = counts.sum(2)[:, :, None] * counts.sum(1)[:, None, :]
    observed, expected = (counts * _WEIGHTS).sum((1, 2)), (chance * _WEIGHTS).sum((1, 2))
    return 1 - np.divide(observed * n, expected, out=np.full(len(counts), np.nan), where=expected > 0)
