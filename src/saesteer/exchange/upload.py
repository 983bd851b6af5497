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

from saesteer.core.hook_points import MODULE_OUTPUTS
from saesteer.engine.saes import read_meta
from saesteer.engine.vector_formats import neuronpedia_body
from saesteer.exchange.neuronpedia import example_lines
from saesteer.methods.compare.tables import METHOD_SUMMARIES
from saesteer.run import Run
from saesteer.settings import LocalExamples, SettingsError, Sweep
from saesteer.settings.registry import key_of
from saesteer.settings.steps import HEADLINE_THRESHOLD
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.sources.neuronpedia.sources import named_sources
from saesteer.sources.neuronpedia.upload import Upload
from saesteer.steps.activations import ACTIVATIONS
from saesteer.steps.features import FEATURES, features_of_layers
from saesteer.steps.fits import FITS
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES

_MOST_FEATURES = 128  # a batch
_MOST_TOKENS = 1024  # an example
_LONGEST_TEXT = 512  # characters of an explanation
_HOOKS = {
    "resid_pre": "hook_resid_pre",
    "embedding": "hook_resid_pre",
    **dict.fromkeys(("resid_post", "mlp_out", "transcoder", "transcoder_normalized"), "hook_resid_post"),
}
"""Hook point -> Neuronpedia's name of where its directions are added, for those it has (engine.hook_points)."""

log = logging.getLogger(__name__)


def uploads_of(part: str, run: Run, source: str | None, method: str | None) -> list[Upload]:
    """The requests of `saesteer upload`, in order; `part` is list, features or vectors."""
    if part == "list":
        return [_list_of_kept(run, source)]
    if source is None:
        of_vectors = "MODEL, as Neuronpedia calls the model"
        example = of_vectors if part == "vectors" else 'MODEL/SOURCE of your own source set, e.g. "my-model/{layer}-my-set"'
        raise SettingsError(f"upload {part}: give --source {example}")
    if part == "features":
        return list(_features_with_scores(run, source))
    if method is None:
        raise SettingsError("upload vectors: give --method, the key of a method that fits vectors, e.g. diffmean")
    return list(_method_vectors(run, method, source))


def _list_of_kept(run: Run, source: str | None) -> Upload:
    """A list of the features whose output score reaches the headline's threshold, the highest first."""
    experiment, features = run.experiment, _features(run)
    threshold = experiment.selection.headline_threshold if isinstance(experiment, Sweep) else HEADLINE_THRESHOLD
    passing = features.filter(pl.col("output_score") >= threshold).sort("output_score", "layer", "feature", descending=[True, False, False])
    if passing.is_empty():
        raise SettingsError(
            f"{run.name}: no feature has an output score of {threshold:g} (selection.headline_threshold): there is nothing to list"
        )
    sources = named_sources(experiment, sorted(set(passing["layer"])), source)
    entries = []
    for row in passing.iter_rows(named=True):
        of_layer = sources[row["layer"]]
        entries.append({"modelId": of_layer.model, "layer": of_layer.source, "index": row["feature"], "description": _scores(row)})
    about = f"{len(entries)} of {features.height} features: output score of at least {threshold:g} (saesteer, {experiment.model.name})"
    values = {"name": f"{run.name}: features kept for steering", "description": about, "features": entries}
    return Upload(f"list of {len(entries)} features", "/api/list/new-with-features", values)


def _features_with_scores(run: Run, source: str) -> Iterator[Upload]:
    """Features with density, top logit-lens tokens, max-activating examples and scores, for sources of the user's own; those without
    max-activating examples cannot be sent."""
    if not isinstance(run.experiment.max_activating_examples, LocalExamples):
        raise SettingsError(
            f"{run.name}: its max-activating examples are Neuronpedia's own; only features with examples computed here can be uploaded"
        )
    table = _features(run)
    for layer, of_layer in named_sources(run.experiment, sorted(set(table["layer"])), source).items():
        examples, activations, lens = (run.rows(step, [layer]) for step in (MAX_ACTIVATING_EXAMPLES, ACTIVATIONS, LOGIT_LENS))
        lines = groupby(example_lines(examples, of_layer, activations), key=lambda line: int(line["index"]))
        texts = {feature: [_text(line) for line in of_feature if all(line["tokens"])] for feature, of_feature in lines}
        features = table.filter(layer=layer).join(lens.select("feature", "tokens", "logits"), on="feature", how="left").sort("feature")
        entries = [_entry(row, texts[row["feature"]]) for row in features.iter_rows(named=True) if texts.get(row["feature"])]
        if len(entries) < features.height:
            log.warning(
                "layer %d: %d features have no max-activating examples and cannot be uploaded", layer, features.height - len(entries)
            )
        for start in range(0, len(entries), _MOST_FEATURES):
            batch = entries[start : start + _MOST_FEATURES]
            about = f"features {batch[0]['index']} to {batch[-1]['index']} of {of_layer}"
            values = {"modelId": of_layer.model, "source": of_layer.source, "features": batch}
            yield Upload(about, "/api/feature/upload-batch", values)


def _entry(row: Mapping[str, Any], texts: list[dict[str, Any]]) -> dict[str, Any]:
    explanations = [_scores(row), *([row["concept"]] if row["concept"] else [])]
    return {
        "index": row["feature"],
        **({"density": row["density"]} if row["density"] is not None else {}),
        "topLogits": [{"token": token, "value": logit} for token, logit in zip(row["tokens"], row["logits"], strict=True)],
        "explanations": [{"text": text[:_LONGEST_TEXT]} for text in explanations],
        "activations": texts,
    }


def _text(line: Mapping[str, Any]) -> dict[str, Any]:
    """An example, or of a long one as much around its maximum as may be sent."""
    first = max(line["maxValueTokenIndex"] - _MOST_TOKENS // 2, 0)
    return {name: line[name][first : first + _MOST_TOKENS] for name in ("tokens", "values")}


def _method_vectors(run: Run, method: str, model: str) -> Iterator[Upload]:
    """The vectors that a method adds at factor 1, each with the median of its chosen factors as its strength."""
    from saesteer.methods.fit.vectors_file import fitted_additions

    hook_point: str = run.experiment.saes.hook_point
    if hook_point in MODULE_OUTPUTS.values():  # of SAEs that name the module, the module's output
        hook_point = read_meta(run.sae_file(run.layers[0])).hook_point
    hook = _HOOKS.get(hook_point)
    if hook is None:
        raise SettingsError(
            f"{run.name}: its vectors are added at {hook_point}, where Neuronpedia's cannot be; it has resid_pre, resid_post"
        )
    fits, concepts, method = run.rows(FITS), run.summary(COMPARED_CONCEPTS), key_of(method)
    scores = run.summary(METHOD_SUMMARIES["method_scores"]).filter(method=method)
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
            yield Upload(f"vector of layer {layer}, {concept}", "/api/vector/new", values)


def _features(run: Run) -> pl.DataFrame:
    table = run.summary_if_any(FEATURES)
    return features_of_layers(run, run.layers) if table is None else table


def _scores(row: Mapping[str, Any]) -> str:
    """A feature's scores in words."""
    input_score = "no input score" if row["input_score"] is None else f"input score {row['input_score']:.3f}"
    return f"output score {row['output_score']:.3f}, {input_score} (saesteer)"
