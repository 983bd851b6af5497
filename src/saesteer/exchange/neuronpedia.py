"""What an experiment gives to Neuronpedia: max-activating examples as files in the form of its exports; and uploads: a list of the kept
features, features with their scores, fitted vectors.

The forms of uploads are those of its API: list/new-with-features, feature/upload-batch, vector/new. None has a field for scores, so they
are said in words: in a list beside each feature, of uploaded features as an explanation.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl

from saesteer.core.files import write_atomically, write_text
from saesteer.core.hook_points import MODULE_OUTPUTS
from saesteer.engine.saes import read_meta
from saesteer.engine.vector_formats import neuronpedia_body
from saesteer.methods.compare.tables import METHOD_SUMMARIES
from saesteer.run import Run
from saesteer.settings import SettingsError, Sweep
from saesteer.settings.registry import key_of
from saesteer.settings.steps import HEADLINE_THRESHOLD
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.sources.neuronpedia.sources import Source, sources_of
from saesteer.sources.neuronpedia.upload import Upload
from saesteer.steps.activations import ACTIVATIONS
from saesteer.steps.features import FEATURES, features_of_layers
from saesteer.steps.fits import FITS
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES

_SIZE = 1024  # lines of a batch of exports
_UNKNOWN = (
    *("pos_str", "pos_values", "neg_str", "neg_values", "logits_hist_data_bar_heights", "logits_hist_data_bar_values"),
    *("topkCosSimIndices", "topkCosSimValues", "hookName"),
)
"""What its exports say of a feature and we do not."""
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


def export_examples(run: Run, folder: Path, source: str | None) -> dict[int, Source]:
    """Export the max-activating examples of a finished experiment; gives layer -> the source written.

    `source` names them (model/source, `{layer}` for the layer); None takes the experiment's own Neuronpedia source.
    """
    sources = sources_of(run.experiment, run.layers, source)
    for layer, of_layer in sources.items():
        activations = run.rows(ACTIVATIONS, [layer]) if run.has_rows(ACTIVATIONS, layer) else None
        write_export(run.rows(MAX_ACTIVATING_EXAMPLES, [layer]), of_layer, folder, activations)
    return sources


def write_export(examples: pl.DataFrame, source: Source, folder: Path, activations: pl.DataFrame | None = None) -> None:
    """Write one layer's MAX_ACTIVATING_EXAMPLES rows as `folder`/v1/{model}/{source}/..., as Neuronpedia exports a source.

    An example's values are those of its text in the layer's ACTIVATIONS rows; without these only the maximum is known, and the others are
    null. What we do not have (histograms of logits, similar features, promoted tokens) is null or left out.
    """
    root = folder / "v1" / source.model / source.source
    ordered = examples.sort("feature")
    features = sorted(ordered.iter_rows(named=True), key=lambda row: str(row["feature"]))
    unknown = {"typeName": None, "explanationModelName": None}
    explanations = [_names(row, source) | {"description": text} | unknown for row in features for text in row["explanations"]]
    for name, lines in {"features": [_feature_line(row, source) for row in features], "explanations": explanations}.items():
        _write_batches(root / name, enumerate(lines[start : start + _SIZE] for start in range(0, len(lines), _SIZE)))
    groups = ordered.group_by(pl.col("feature") // _SIZE, maintain_order=True)
    _write_batches(root / "activations", ((group, _example_lines(rows, source, activations)) for (group,), rows in groups))
    layer, _, source_set = source.source.partition("-")
    for name, values in {
        "model": {"id": source.model, "layers": None, "owner": None},
        "release": {"name": source_set, "description": None},
        "sourceset": {"modelId": source.model, "name": source_set, "releaseName": source_set},
        "source": {"modelId": source.model, "id": source.source, "setName": source_set, "layer": layer},
    }.items():
        write_text(root / f"{name}.jsonl", json.dumps(values) + "\n")


def _write_batches(folder: Path, batches: Iterable[tuple[object, Iterable[Mapping[str, Any]]]]) -> None:
    """Write numbered batches, and remove those of an earlier export that are none of these."""
    written = {_write_batch(folder, number, lines) for number, lines in batches}
    for path in set(folder.glob("batch-*.jsonl.gz")) - written:
        path.unlink()


def _write_batch(folder: Path, number: object, lines: Iterable[Mapping[str, Any]]) -> Path:
    """Write a batch. Equal lines give equal bytes: no time and no name in the gzip header."""

    def compress(path: Path) -> None:
        with path.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
            for line in lines:
                packed.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    path = folder / f"batch-{number}.jsonl.gz"
    write_atomically(path, compress)
    return path


def _names(row: Mapping[str, Any], source: Source) -> dict[str, str]:
    return {"modelId": source.model, "layer": source.source, "index": str(row["feature"])}


def _feature_line(row: Mapping[str, Any], source: Source) -> dict[str, Any]:
    measured = {"maxActApprox": row["max_activation"], "frac_nonzero": row["density"]}
    histogram = {"freq_hist_data_bar_values": row["histogram_activations"], "freq_hist_data_bar_heights": row["histogram_counts"]}
    return {**_names(row, source), **measured, **histogram, **dict.fromkeys(_UNKNOWN)}


def _example_lines(rows: pl.DataFrame, source: Source, activations: pl.DataFrame | None) -> Iterator[dict[str, Any]]:
    """The max-activating examples of one layer's MAX_ACTIVATING_EXAMPLES rows, feature by feature. The max activation is always known; at
    other positions it is 0 where the activations of the text are known, else null."""
    by_text = {} if activations is None else _feature_activations(rows, activations)
    for row in rows.iter_rows(named=True):
        for example in row["examples"]:
            n, maximum, at = len(example["context"]), example["max_value"], example["token_index"]
            values: dict[int, float] = {}
            if activations is not None:
                values = dict.fromkeys(range(n), 0.0) | by_text.get((example["text_id"], row["feature"]), {})
            values[at] = maximum
            yield {
                **_names(row, source),
                "id": example["text_id"],
                "dataSource": None,
                "tokens": example["context"],
                "values": [values.get(position) for position in range(n)],
                "maxValue": maximum,
                "maxValueTokenIndex": at,
                "minValue": None if activations is None else min(values.values()),
                **dict.fromkeys(("binMin", "binMax", "binContains")),
                "dfaValues": [],
            }


def _feature_activations(rows: pl.DataFrame, activations: pl.DataFrame) -> dict[tuple[str, int], dict[int, float]]:
    """(text_id, feature) -> position -> activation, of the rows' max-activating examples."""
    texts = rows.select("feature", text_id=pl.col("examples").list.eval(pl.element().struct.field("text_id"))).explode("text_id")
    long = activations.select("text_id", "token_index", "feature", "value").explode("token_index", "feature", "value")
    by_text: dict[tuple[str, int], dict[int, float]] = {}
    for text, position, feature, value in long.join(texts, on=["text_id", "feature"], how="semi").iter_rows():
        by_text.setdefault((text, feature), {})[position] = value
    return by_text


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
    experiment, features = run.experiment, _features_table(run)
    threshold = experiment.selection.headline_threshold if isinstance(experiment, Sweep) else HEADLINE_THRESHOLD
    passing = features.filter(pl.col("output_score") >= threshold).sort("output_score", "layer", "feature", descending=[True, False, False])
    if passing.is_empty():
        raise SettingsError(
            f"{run.name}: no feature has an output score of {threshold:g} (selection.headline_threshold): there is nothing to list"
        )
    sources = sources_of(experiment, sorted(set(passing["layer"])), source)
    entries = []
    for row in passing.iter_rows(named=True):
        of_layer = sources[row["layer"]]
        entries.append({"modelId": of_layer.model, "layer": of_layer.source, "index": row["feature"], "description": _scores_in_words(row)})
    about = f"{len(entries)} of {features.height} features: output score of at least {threshold:g} (saesteer, {experiment.model.name})"
    values = {"name": f"{run.name}: features kept for steering", "description": about, "features": entries}
    return Upload(f"list of {len(entries)} features", "/api/list/new-with-features", values)


def _features_with_scores(run: Run, source: str) -> Iterator[Upload]:
    """Features with density, top logit-lens tokens, max-activating examples and scores, for sources of the user's own; those without
    max-activating examples cannot be sent."""
    if not run.experiment.local_examples:
        raise SettingsError(
            f"{run.name}: its max-activating examples are Neuronpedia's own; only features with examples computed here can be uploaded"
        )
    table = _features_table(run)
    for layer, of_layer in sources_of(run.experiment, sorted(set(table["layer"])), source).items():
        examples, activations, lens = (run.rows(step, [layer]) for step in (MAX_ACTIVATING_EXAMPLES, ACTIVATIONS, LOGIT_LENS))
        lines = groupby(_example_lines(examples, of_layer, activations), key=lambda line: int(line["index"]))
        texts = {feature: [_example_entry(line) for line in of_feature if all(line["tokens"])] for feature, of_feature in lines}
        features = table.filter(layer=layer).join(lens.select("feature", "tokens", "logits"), on="feature", how="left").sort("feature")
        entries = [_feature_entry(row, texts[row["feature"]]) for row in features.iter_rows(named=True) if texts.get(row["feature"])]
        if len(entries) < features.height:
            log.warning(
                "layer %d: %d features have no max-activating examples and cannot be uploaded", layer, features.height - len(entries)
            )
        for start in range(0, len(entries), _MOST_FEATURES):
            batch = entries[start : start + _MOST_FEATURES]
            about = f"features {batch[0]['index']} to {batch[-1]['index']} of {of_layer}"
            values = {"modelId": of_layer.model, "source": of_layer.source, "features": batch}
            yield Upload(about, "/api/feature/upload-batch", values)


def _feature_entry(row: Mapping[str, Any], texts: list[dict[str, Any]]) -> dict[str, Any]:
    explanations = [_scores_in_words(row), *([row["concept"]] if row["concept"] else [])]
    return {
        "index": row["feature"],
        **({"density": row["density"]} if row["density"] is not None else {}),
        "topLogits": [{"token": token, "value": logit} for token, logit in zip(row["tokens"], row["logits"], strict=True)],
        "explanations": [{"text": text[:_LONGEST_TEXT]} for text in explanations],
        "activations": texts,
    }


def _example_entry(line: Mapping[str, Any]) -> dict[str, Any]:
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


def _features_table(run: Run) -> pl.DataFrame:
    table = run.summary_if_any(FEATURES)
    return features_of_layers(run, run.layers) if table is None else table


def _scores_in_words(row: Mapping[str, Any]) -> str:
    """A feature's scores in words."""
    input_score = "no input score" if row["input_score"] is None else f"input score {row['input_score']:.3f}"
    return f"output score {row['output_score']:.3f}, {input_score} (saesteer)"
