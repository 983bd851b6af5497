"""The features that may steer towards a concept: found by what is known of them, and by the direction of texts that have its word."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from saesteer.analysis.candidates import MATCHES, N_SAID, candidates, concept_words, lens_words, similarities
from saesteer.analysis.recommendation import N_PER_LAYER, controls
from saesteer.analysis.words_at_maxima import fired_on, words_at_maxima
from saesteer.core.errors import SettingsError, did_you_mean
from saesteer.core.files import file_digest, value_digest, write_atomically
from saesteer.core.markdown import printable
from saesteer.engine.activations import decoder_cosines, difference_of_means, word_cosines
from saesteer.engine.hook_points import sae_hook_point
from saesteer.engine.saes import read_meta
from saesteer.recommendations.question import RecommendRequest
from saesteer.run import Run, open_run
from saesteer.settings import EmbeddingJudge, ExplainedFeatures, RecommendationSettings, Sweep
from saesteer.settings.base import three_digits
from saesteer.settings.methods import ORDINARY_TOKENS
from saesteer.site.labels import with_labels
from saesteer.steps.features import FEATURES
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.steps.pilot import PILOT
from saesteer.steps.step import describes_every_feature
from saesteer.workflow.model_files import model_files, present_folder

if TYPE_CHECKING:
    from saesteer.judge.rate_embedding import Embed

N_TEXTS = 64
"""Texts with the word, and as many without it, whose means are compared, at most."""
MIN_TEXTS = 8
"""With fewer that have the word its direction is not known."""


def picked_features(run: Run, question: RecommendRequest) -> pl.DataFrame:
    """The candidates' FEATURES columns, `match` and `fires_on`; refused where nothing points to the concept."""
    return picked_and_control(run, question)[0]


def picked_and_control(run: Run, question: RecommendRequest) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The candidates, and layer and feature of the control beside them (`controls`)."""
    concept, n_per_layer, words = question.concept, question.n_per_layer or N_PER_LAYER, question.words
    described, maxima = _described(run, question)
    picked = candidates(described, concept, n_per_layer, words)
    is_said = "similarity" in described.columns or picked["match"].is_in(MATCHES[:N_SAID]).any()
    if not is_said and (cosines := concept_cosines(run, concept)) is not None:
        described = described.join(cosines, on=["layer", "feature"], how="left", maintain_order="left")
        picked = candidates(described, concept, n_per_layer, words)
    labels = sorted({printable(label) for label in described.select(pl.coalesce("concept", "label")).to_series().drop_nulls()})
    if picked.is_empty() and not is_said and not did_you_mean(concept, labels):
        similar_to = partial(word_cosines, run.model(), [*sorted(concept_words(concept)), *words])
        described = _with_similarities(described, maxima, question, similar_to)
        picked = candidates(described, concept, n_per_layer, words)
    if picked.is_empty():
        raise SettingsError(
            f"none of the {described.height} features of {run.name} is labelled with, explained by, fires on or promotes"
            f" {concept!r} or words like it.{did_you_mean(concept, labels)} Labels are {', '.join(labels[:40]) or 'none'}"
        )
    known = picked.join(described, on=["layer", "feature"], how="left", maintain_order="left")
    if question.n_per_layer is None:
        known = steered_with(known, run.sweep.recommendation)
    return known, controls(described, known, concept, words)


def steered_with(known: pl.DataFrame, settings: RecommendationSettings) -> pl.DataFrame:
    """The candidates that are steered with; of equal or unknown scores the first of each layer in turn."""
    if settings.n_candidates is None:
        return known
    by = "similarity" if "similarity" in known.columns else "output_score"
    in_turn = known.sort(pl.int_range(pl.len()).over("layer"), maintain_order=True)
    return in_turn.sort(by, descending=True, nulls_last=True, maintain_order=True).head(settings.n_candidates)


def _described(run: Run, question: RecommendRequest) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What `candidates` reads of every feature, and their `words_at_maxima`; refused where the scores are not there."""
    of_pilot = run.manifests(PILOT.name) if _reads_pilot(run) else []
    if missing := [str(path) for path in (run.summary_path(FEATURES), *of_pilot) if not path.exists()]:
        named = ["--configfile", str(question.configfile), "--config", f"experiments=[{run.name}]"]
        command = shlex.join(["snakemake", *missing, "--cores", "all", *named])
        raise SettingsError(f"there is no {missing[0]}: compute the scores first: {command}")
    features, keys = _features(run), ["layer", "feature"]
    # A layer at a time: a large model's max-activating examples fill the memory.
    maxima = pl.concat(words_at_maxima(run.rows(MAX_ACTIVATING_EXAMPLES, [layer])) for layer in run.layers)
    listed = run.experiment.features
    near = isinstance(listed, ExplainedFeatures) and (listed.query or "").lower() == question.concept.lower()
    described = with_labels(run, features).join(fired_on(maxima), on=keys, how="left", maintain_order="left").with_columns(near=near)
    judge = run.steering.judge
    if not isinstance(judge, EmbeddingJudge):
        return described, maxima
    return _with_similarities(described, maxima, question, _cosines(run, judge, question.concept)), maxima


def _with_similarities(
    described: pl.DataFrame, maxima: pl.DataFrame, question: RecommendRequest, cosines: Callable[[Sequence[str]], Sequence[float]]
) -> pl.DataFrame:
    """With the similarity of each feature to the concept: of what it writes and, to have less of the concept, of what it fires on too."""
    similar = similarities([lens_words(described), *([maxima] if question.less else [])], cosines)
    return described.join(similar, on=["layer", "feature"], how="left", maintain_order="left")


def _features(run: Run) -> pl.DataFrame:
    """FEATURES rows, scores missing where a feature is none of the experiment's but has examples (`every_feature`)."""
    features = run.summary(FEATURES)
    if not describes_every_feature(run.experiment):
        return features
    lens = run.rows(LOGIT_LENS, columns=["tokens", "token_ids"]).rename(lambda name: f"top_logit_lens_{name}" if "token" in name else name)
    examples = run.rows(MAX_ACTIVATING_EXAMPLES, columns=["density", "max_activation", "n_examples"])
    others = examples.join(lens, on=FEATURES.keys).join(features, on=FEATURES.keys, how="anti")
    return pl.concat([features, others], how="diagonal_relaxed").sort(FEATURES.keys)


def _cosines(run: Run, judge: EmbeddingJudge, concept: str) -> Callable[[Sequence[str]], Sequence[float]]:
    """The cosines of words with a concept, by the judge's model, which is fetched if it is not here."""
    from saesteer.judge.embedding import load_embedder
    from saesteer.judge.rate_embedding import concept_of

    folder = present_folder(judge.model, run.workflow) or model_files(judge.model, run.workflow, dict).folder
    embedder = load_embedder(folder)
    of = concept_of(concept, judge.descriptions.get(concept, ()), embedder.vectors)
    weights = value_digest([file_digest(file) for file in sorted(folder.glob("*.safetensors"))])
    file = run.workflow.derived_dir / f"words-{weights[:16]}.parquet"

    def cosines(words: Sequence[str]) -> Sequence[float]:
        know_words(embedder.known, embedder.vectors, words, file)
        return of.cosines(words).tolist()

    return cosines


def know_words(known: dict[str, Any], vectors: Embed, words: Sequence[str], file: Path) -> None:
    """Fill `known` with the vectors of words: those of all features take a minute of a real vocabulary, so a file has what was computed."""
    if file.exists():
        stored = pl.read_parquet(file)
        known.update(zip(stored["word"], stored["vector"].to_numpy(), strict=True))
    n_stored = len(known)
    vectors(words)
    if len(known) > n_stored:
        write_atomically(file, pl.DataFrame({"word": [*known], "vector": np.stack([*known.values()])}).write_parquet)


def concept_cosines(run: Run, concept: str) -> pl.DataFrame | None:
    """layer, feature, cosine of the decoder row with the mean of texts that have the concept's name in them less that of others; None where
    the experiment has no texts of its own, or too few have it."""
    if run.experiment.local_examples is None:
        return None
    texts = run.corpus(ORDINARY_TOKENS)["token_ids"].list.head(ORDINARY_TOKENS)
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


def usual_factors(run: Run, factors: Sequence[str]) -> list[str]:
    """A sweep's factors where features have none of their own: with a pilot, multiples of the median pilot factor."""
    if run.sweep.sweep.pilot is None:
        return list(factors)
    (median,) = run.rows(PILOT).select(pl.col("factor").cast(pl.Float64).median()).row(0)
    return [three_digits(float(factor) * median) for factor in factors]


def candidates_sweep(run: Run) -> dict[str, Any]:
    """What the section sweep of the candidates' experiment says of factors."""
    settings, chosen_from = run.sweep.sweep, run.sweep.recommendation.factors
    if chosen_from is None:
        return {}
    if settings.pilot is not None and not _reads_pilot(run):
        return {"factors": list(chosen_from)}  # multiples of each candidate's pilot factor
    return {"pilot": None, "factors": usual_factors(run, chosen_from)}


def _reads_pilot(run: Run) -> bool:
    """Whether candidates are steered with at multiples of the experiment's median pilot factor; one that is no sweep has none."""
    if run.sweep.recommendation.factors is None or run.sweep.sweep.pilot is None:
        return False
    return isinstance(open_run(run.name, run.workflow).experiment, Sweep)
