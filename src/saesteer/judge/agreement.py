"""How far two sets of ratings of the same texts agree: two judges, one judge asked twice, or the shipped world's oracle against a judge.

Cohen's kappa with quadratic weights (Cohen 1968): 1 - sum(w * observed) / sum(w * expected), w = (i - j)^2, expected from the two
judges' own frequencies. 1 is full agreement, 0 what chance gives. Texts of one feature (of methods: of one
concept) are alike, so the bootstrap draws features.
"""

import itertools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.core.store import MEASURED_ON, sound_parts
from saesteer.core.tables import GENERATIONS, JUDGEMENTS
from saesteer.core.uncertainty import interval_columns, quantile_interval, random_stream
from saesteer.settings import SettingsError

SCHEMA = pl.Schema(
    {
        "aspect": pl.String,  # concept, instruction or fluency
        "n": pl.UInt32,  # texts that both rated
        "n_missing": pl.UInt32,  # texts of both that one or both left unrated
        "n_features": pl.UInt32,  # features (of methods: concepts) of the texts that both rated
        "equal": pl.Float64,  # share of equal ratings; null without texts
        "kappa": pl.Float64,  # quadratic weights; null when a judge's ratings leave chance nothing to disagree about
        "low": pl.Float64,  # bootstrap interval over features; null with fewer than 2
        "high": pl.Float64,
    }
)

_TEXT = "text_digest"

log = logging.getLogger(__name__)

_WEIGHTS = np.subtract.outer(np.arange(3), np.arange(3)).astype(np.float64) ** 2


def agreement(a: pl.DataFrame, b: pl.DataFrame, draws: int = 2000, confidence: float = 0.95, seed: int = 0) -> pl.DataFrame:
    """One row an aspect (see SCHEMA) of two JUDGEMENTS tables, over the generations that are in both."""
    pairs = a.join(b, on=JUDGEMENTS.keys, suffix="_b")
    rows = [_aspect_row(pairs, aspect, draws, confidence, seed) for aspect in ("concept", "instruction", "fluency")]
    return pl.DataFrame(rows, schema=SCHEMA)


def pairwise_agreement(judge_folder: Path, draws: int = 2000) -> dict[tuple[str, str], pl.DataFrame]:
    """`agreement` of each pair of judges whose ratings of the same texts are among a judge step's parts; past judges' parts stay there."""
    rated = stored_ratings(judge_folder)
    if len(rated) < 2:
        raise SettingsError(
            f"{judge_folder} holds the ratings of {len(rated)} judges: change `judge` in the experiment file (another model, or another"
            " seed to ask the same one again) and run once more; earlier ratings are kept"
        )
    same_text = [*JUDGEMENTS.keys, _TEXT]
    pairs = {(one, other): (rated[one], rated[other]) for one, other in itertools.combinations(rated, 2)}
    return {
        names: agreement(a.join(b, on=same_text, how="semi").drop(_TEXT), b.join(a, on=same_text, how="semi").drop(_TEXT), draws)
        for names, (a, b) in pairs.items()
    }


def stored_ratings(judge_folder: Path) -> dict[str, pl.DataFrame]:
    """Judge -> its JUDGEMENTS rows among all parts of a judge step, with the digest of the text that each is about."""
    rated: dict[str, list[pl.DataFrame]] = {}
    for path in sorted(judge_folder.glob("*/fingerprint.json")):
        fingerprint = json.loads(path.read_text(encoding="utf-8"))
        parts = [part for layer in sorted(path.parent.glob("layer_*")) for part in sound_parts(layer)]
        if MEASURED_ON not in fingerprint:
            log.warning("%s: its ratings do not say which texts they are about, so they are left out", path.parent)
            continue
        text = pl.col(MEASURED_ON).str.extract(rf"{GENERATIONS.name}:(\w+)").alias(_TEXT)
        rows = [pl.read_parquet(part).with_columns(text).drop(MEASURED_ON) for part in parts]
        rated.setdefault(_judge_name(fingerprint["settings"]), []).extend(rows)
    return {
        name: pl.concat(rows).unique([*JUDGEMENTS.keys, _TEXT], keep="first", maintain_order=True) for name, rows in rated.items() if rows
    }


def _judge_name(settings: Mapping[str, Any]) -> str:
    """A judge as its fingerprint tells it: kind, model, and what else sets it apart."""
    return ", ".join(f"{key} {str(value)[:16]}" for key, value in settings.items() if value is not None)


def _aspect_row(pairs: pl.DataFrame, aspect: str, draws: int, confidence: float, seed: int) -> dict[str, object]:
    one, other = f"{aspect}_rating", f"{aspect}_rating_b"
    rated = pairs.drop_nulls([one, other]).sort(JUDGEMENTS.keys)
    counts = _counts(rated, one, other)
    resampled = _resampled(counts, draws, seed, aspect)
    kappa = float(weighted_kappa(counts.sum(0)[None])[0])
    interval = quantile_interval(resampled, confidence) if len(resampled) and np.isfinite(kappa) else None
    return {
        "aspect": aspect,
        "n": rated.height,
        "n_missing": pairs.height - rated.height,
        "n_features": len(counts),
        "equal": (rated[one] == rated[other]).mean(),
        **interval_columns("kappa", kappa if np.isfinite(kappa) else None, interval, ends=""),
    }


def weighted_kappa(counts: Float[np.ndarray, "draw 3 3"]) -> Float[np.ndarray, " draw"]:
    """Kappa with quadratic weights of tables of counts [first judge's rating, second judge's]; NaN where nothing can differ by chance."""
    n = counts.sum((1, 2))
    chance = counts.sum(2)[:, :, None] * counts.sum(1)[:, None, :]
    observed, expected = (counts * _WEIGHTS).sum((1, 2)), (chance * _WEIGHTS).sum((1, 2))
    return 1 - np.divide(observed * n, expected, out=np.full(len(counts), np.nan), where=expected > 0)


def _counts(rated: pl.DataFrame, one: str, other: str) -> Float[np.ndarray, "feature 3 3"]:
    """Each feature's table of counts."""
    features = rated.select(pl.struct("layer", "target").rank("dense")).to_series().to_numpy().astype(np.int64) - 1
    counts = np.zeros((int(features.max()) + 1 if len(features) else 0, 3, 3))
    np.add.at(counts, (features, rated[one].to_numpy(), rated[other].to_numpy()), 1.0)
    return counts


def _resampled(counts: Float[np.ndarray, "feature 3 3"], draws: int, seed: int, aspect: str) -> Float[np.ndarray, " draw"]:
    """Kappa of features drawn with replacement; draws in which it is undefined are left out."""
    n = len(counts)
    if n < 2:
        return np.empty(0)
    times = random_stream(seed, "agreement", aspect).multinomial(n, np.full(n, 1 / n), size=draws)  # [draw feature]
    kappas = weighted_kappa((times @ counts.reshape(n, 9)).reshape(draws, 3, 3))
    return kappas[np.isfinite(kappas)]
