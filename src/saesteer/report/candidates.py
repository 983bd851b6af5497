"""The features that may steer towards a concept: found by what is known of them, and by the direction of texts that have its word."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import polars as pl

from saesteer.analysis.recommendation import MATCHES, N_SAID, candidates, fired_on
from saesteer.analysis.suppression import controls
from saesteer.core.errors import SettingsError
from saesteer.core.names import did_you_mean
from saesteer.core.tables import FEATURES, MAX_ACTIVATING_EXAMPLES
from saesteer.engine.directions import decoder_cosines, difference_of_means
from saesteer.engine.hook_points import sae_hook_point
from saesteer.engine.saes import read_meta
from saesteer.report.labels import with_labels
from saesteer.run import Run
from saesteer.settings import ExplainedFeatures, LocalExamples
from saesteer.settings.methods import ORDINARY_TOKENS
from saesteer.sources.corpus import read_texts

N_TEXTS = 64
"""Texts with the word, and as many without it, whose means are compared, at most."""
MIN_TEXTS = 8
"""With fewer that have the word its direction is not known."""


def _described(run: Run, concept: str, configfile: Path) -> pl.DataFrame:
    """What `candidates` reads of every feature; refused where the scores are not there."""
    path = run.summary_path(FEATURES)
    if not path.exists():
        named = ["--configfile", str(configfile), "--config", f"experiments=[{run.name}]"]
        command = shlex.join(["snakemake", str(path), "--cores", "all", *named])
        raise SettingsError(f"there is no {path}: compute the scores first: {command}")
    features = run.summary(FEATURES)
    # A layer at a time: a large model's max-activating examples fill the memory.
    fires = pl.concat(fired_on(run.rows(MAX_ACTIVATING_EXAMPLES, [layer])) for layer in run.layers)
    listed = run.experiment.features
    near = isinstance(listed, ExplainedFeatures) and (listed.query or "").lower() == concept.lower()
    described = with_labels(run, features).join(fires, on=["layer", "feature"], how="left", maintain_order="left")
    return described.with_columns(near=near)


def picked_features(run: Run, concept: str, n_per_layer: int, configfile: Path) -> pl.DataFrame:
    """The candidates' FEATURES columns, `match` and `fires_on`; refused where nothing points to the concept."""
    return _picked(run, _described(run, concept, configfile), concept, n_per_layer)[0]


def picked_and_control(run: Run, concept: str, n_per_layer: int, configfile: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`picked_features`, and layer, feature of the control beside them (`controls`)."""
    picked, described = _picked(run, _described(run, concept, configfile), concept, n_per_layer)
    return picked, controls(described, picked, concept)


def _picked(run: Run, described: pl.DataFrame, concept: str, n_per_layer: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The candidates, and all features as described, with the cosines that chose where nothing is said of the concept."""
    picked = candidates(described, concept, n_per_layer)
    is_said = picked["match"].is_in(MATCHES[:N_SAID]).any()
    if not is_said and (cosines := concept_cosines(run, concept)) is not None:
        described = described.join(cosines, on=["layer", "feature"], how="left", maintain_order="left")
        picked = candidates(described, concept, n_per_layer)
    if picked.is_empty():
        labels = sorted(set(described.select(pl.coalesce("concept", "label")).to_series().drop_nulls()))
        raise SettingsError(
            f"none of the {described.height} features of {run.name} is labelled with, explained by, fires on or promotes"
            f" {concept!r}.{did_you_mean(concept, labels)} Labels are {', '.join(labels[:40]) or 'none'}"
        )
    return picked.join(described, on=["layer", "feature"], how="left", maintain_order="left"), described


def concept_cosines(run: Run, concept: str) -> pl.DataFrame | None:
    """layer, feature, cosine of the decoder row with the mean of texts that have the concept's name in them less that of others; None where
    the experiment has no texts of its own, or too few have it."""
    local = run.experiment.max_activating_examples
    if not isinstance(local, LocalExamples):
        return None
    texts = read_texts(local.texts, run.model_folder(), run.experiment.model.bos, ORDINARY_TOKENS)["token_ids"].list.head(ORDINARY_TOKENS)
    named = re.compile(rf"(?<!\w){re.escape(concept)}s?(?!\w)", re.IGNORECASE)
    having: list[list[int]] = []
    lacking: list[list[int]] = []
    for ids, text in zip(texts.to_list(), run.tokens().tokenizer.decode_batch(texts.to_list()), strict=True):
        (having if named.search(text) else lacking).append(ids)
    if min(len(having), len(lacking)) < MIN_TEXTS:
        return None
    lm = run.model()
    hook_points = [sae_hook_point(lm, layer, read_meta(run.sae_file(layer))) for layer in run.layers]
    directions = difference_of_means(lm, hook_points, _spread(having), _spread(lacking))
    rows = [
        pl.DataFrame({"cosine": decoder_cosines(run.sae(layer), direction)}).with_row_index("feature").with_columns(layer=pl.lit(layer))
        for layer, direction in zip(run.layers, directions, strict=True)
    ]
    return pl.concat(rows).cast({"layer": pl.UInt16, "feature": pl.UInt32})


def _spread(texts: list[list[int]]) -> list[list[int]]:
    """At most N_TEXTS of them, at even distances."""
    step = max(1.0, len(texts) / N_TEXTS)
    return [texts[int(number * step)] for number in range(min(N_TEXTS, len(texts)))]
