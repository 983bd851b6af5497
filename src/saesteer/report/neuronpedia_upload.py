"""What an experiment gives to Neuronpedia: a list of the kept features, features with their scores, fitted vectors.

The forms are those of its API: list/new-with-features, feature/upload-batch, vector/new. None has a field for scores, so they are said in
words: in a list beside each feature, of uploaded features as an explanation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import groupby
from statistics import median
from typing import Any

import polars as pl

from saesteer.core.tables import ACTIVATIONS, ASKED_CONCEPTS, FEATURES, FITS, LOGIT_LENS, METHOD_SUMMARIES, RECORDS
from saesteer.engine.vector_formats import neuronpedia_body
from saesteer.report.neuronpedia_export import record_lines
from saesteer.run import Run
from saesteer.settings import LocalRecords, SettingsError, Sweep
from saesteer.settings.steps import HEADLINE_THRESHOLD
from saesteer.sources.neuronpedia.sources import Source, named_sources
from saesteer.sources.neuronpedia.upload import Upload

_MOST_FEATURES = 128  # a batch
_MOST_TOKENS = 1024  # a record
_LONGEST_TEXT = 512  # characters of an explanation
_HOOKS = {
    "resid_pre": "hook_resid_pre",
    "embedding": "hook_resid_pre",
    **dict.fromkeys(("resid_post", "mlp_out", "transcoder", "transcoder_normalized"), "hook_resid_post"),
}
"""Site -> Neuronpedia's name of where its directions are added, for those it has (engine.sites)."""

log = logging.getLogger(__name__)


def uploads_of(what: str, run: Run, source: str | None, method: str | None) -> list[Upload]:
    """The requests of `saesteer upload`, in order."""
    if what == "list":
        return list_of_kept(run, source)
    if source is None:
        example = (
            "MODEL, as Neuronpedia calls the model"
            if what == "vectors"
            else 'MODEL/SOURCE of your own source set, e.g. "my-model/{layer}-my-set"'
        )
        raise SettingsError(f"upload {what}: give --source {example}")
    if what == "features":
        return features_with_scores(run, source)
    if method is None:
        raise SettingsError("upload vectors: give --method, the key of a method that fits vectors, e.g. diffmean")
    return method_vectors(run, method, source)


def list_of_kept(run: Run, source: str | None) -> list[Upload]:
    """A list of the features whose output score reaches the headline's threshold, the highest first."""
    experiment, features = run.experiment, _features(run)
    threshold = experiment.selection.headline_threshold if isinstance(experiment, Sweep) else HEADLINE_THRESHOLD
    kept = features.filter(pl.col("output_score") >= threshold).sort("output_score", "layer", "feature", descending=[True, False, False])
    if kept.is_empty():
        raise SettingsError(
            f"{run.name}: no feature has an output score of {threshold:g} (selection.headline_threshold): there is nothing to list"
        )
    sources = named_sources(run.experiment, sorted(set(kept["layer"])), source)
    entries = [
        {**_place(sources[row["layer"]]), "index": row["feature"], "description": _scores(row)} for row in kept.iter_rows(named=True)
    ]
    said = f"{len(entries)} of {features.height} features: output score of at least {threshold:g} (saesteer, {run.experiment.model.name})"
    values = {"name": f"{run.name}: features kept for steering", "description": said, "features": entries}
    return [Upload(f"list of {len(entries)} features", "/api/list/new-with-features", values)]


def features_with_scores(run: Run, source: str) -> list[Upload]:
    """Features with density, lens tokens, records and scores, for sources of the user's own; those without records cannot be sent."""
    if not isinstance(run.experiment.records, LocalRecords):
        raise SettingsError(f"{run.name}: its records are Neuronpedia's own; only features with records computed here can be uploaded")
    table = _features(run)
    return [
        upload
        for layer, place in named_sources(run.experiment, sorted(set(table["layer"])), source).items()
        for upload in _layer_features(table.filter(pl.col("layer") == layer), place, run, layer)
    ]


def _layer_features(table: pl.DataFrame, place: Source, run: Run, layer: int) -> Iterator[Upload]:
    records, activations, lens = (run.rows(step, [layer]) for step in (RECORDS, ACTIVATIONS, LOGIT_LENS))
    lines = groupby(record_lines(records, place, activations), key=lambda line: int(line["index"]))
    texts = {feature: usable for feature, given in lines if (usable := [_text(line) for line in given if all(line["tokens"])])}
    rows = table.join(lens.select("feature", "tokens", "logits"), on="feature", how="left").sort("feature").iter_rows(named=True)
    entries = [_entry(row, texts[row["feature"]]) for row in rows if row["feature"] in texts]
    if len(entries) < table.height:
        log.warning("layer %d: %d features have no records and cannot be uploaded", layer, table.height - len(entries))
    for batch in (entries[start : start + _MOST_FEATURES] for start in range(0, len(entries), _MOST_FEATURES)):
        about = f"features {batch[0]['index']} to {batch[-1]['index']} of {place}"
        yield Upload(about, "/api/feature/upload-batch", {"modelId": place.model, "source": place.source, "features": batch})


def _entry(row: Mapping[str, Any], texts: list[dict[str, Any]]) -> dict[str, Any]:
    said = [_scores(row), *([row["concept"]] if row["concept"] else [])]
    return {
        "index": row["feature"],
        **({"density": row["density"]} if row["density"] is not None else {}),
        "topLogits": [{"token": token, "value": logit} for token, logit in zip(row["tokens"], row["logits"], strict=True)],
        "explanations": [{"text": text[:_LONGEST_TEXT]} for text in said],
        "activations": texts,
    }


def _text(line: Mapping[str, Any]) -> dict[str, Any]:
    """A record, or of a long one as much around its maximum as may be sent."""
    first = max(line["maxValueTokenIndex"] - _MOST_TOKENS // 2, 0)
    return {name: line[name][first : first + _MOST_TOKENS] for name in ("tokens", "values")}


def method_vectors(run: Run, method: str, model: str) -> list[Upload]:
    """The vectors that a method adds at factor 1, each with the median of its chosen factors as its strength."""
    from saesteer.methods.fit.vectors_file import fitted_additions

    hook = _HOOKS.get(run.experiment.saes.site)
    if hook is None:
        raise SettingsError(
            f"{run.name}: its vectors are added at {run.experiment.saes.site}, where Neuronpedia's cannot be; it has resid_pre, resid_post"
        )
    fits, concepts = run.rows(FITS), run.summary(ASKED_CONCEPTS)
    scores = run.summary(METHOD_SUMMARIES["method_scores"]).filter(method=method)
    uploads = []
    for layer in run.layers:
        chosen = {row["concept"]: row["factors"] for row in scores.filter(layer=layer).iter_rows(named=True)}
        for concept, addition in fitted_additions(fits.filter(layer=layer), concepts, method).items():
            if addition.scale is None or addition.positions != "all":
                raise SettingsError(f"method {method} adds no constant vector at every position, as Neuronpedia does: choose another")
            factors = [float(factor) for factor in chosen[concept] if factor is not None]
            if not factors:
                log.warning("layer %d, %s: no factor was chosen, so its vector is left out", layer, concept)
                continue
            vector, label = addition.scale * addition.vector.float(), f"{concept} ({method}, {run.name})"
            values = neuronpedia_body(model, layer, hook, vector, median(factors), label)
            uploads.append(Upload(f"vector of layer {layer}, {concept}", "/api/vector/new", values))
    return uploads


def _features(run: Run) -> pl.DataFrame:
    every = run.summary_if_any(FEATURES)
    return run.features(run.layers) if every is None else every


def _place(source: Source) -> dict[str, str]:
    return {"modelId": source.model, "layer": source.source}


def _scores(row: Mapping[str, Any]) -> str:
    """A feature's scores in words."""
    given = "no input score" if row["input_score"] is None else f"input score {row['input_score']:.3f}"
    return f"output score {row['output_score']:.3f}, {given} (saesteer)"
