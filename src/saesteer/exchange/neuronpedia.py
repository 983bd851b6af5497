"""Max-activating examples (the table max-activating examples) in the form of Neuronpedia's exports."""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.files import write_atomically, write_text
from saesteer.run import Run
from saesteer.sources.neuronpedia.sources import Source, named_sources
from saesteer.steps.activations import ACTIVATIONS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES

_SIZE = 1024
_UNKNOWN = (
    *("pos_str", "pos_values", "neg_str", "neg_values", "logits_hist_data_bar_heights", "logits_hist_data_bar_values"),
    *("topkCosSimIndices", "topkCosSimValues", "hookName"),
)
"""What its exports say of a feature and we do not."""


def export_examples(run: Run, folder: Path, source: str | None) -> dict[int, Source]:
    """Export the max-activating examples of a finished experiment; gives layer -> the source written.

    `source` names them (model/source, `{layer}` for the layer); None takes the experiment's own Neuronpedia source.
    """
    sources = named_sources(run.experiment, run.layers, source)
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
    explained = [(row, text) for row in features for text in row["explanations"]]
    for start in range(0, len(features), _SIZE):
        _write(root / "features", start, (_feature(row, source) for row in features[start : start + _SIZE]))
    for start in range(0, len(explained), _SIZE):
        _write(root / "explanations", start, (_explanation(row, text, source) for row, text in explained[start : start + _SIZE]))
    for (number,), rows in ordered.group_by(pl.col("feature") // _SIZE, maintain_order=True):
        _write(root / "activations", int(str(number)) * _SIZE, example_lines(rows, source, activations))
    layer, _, source_set = source.source.partition("-")
    for name, values in {
        "model": {"id": source.model, "layers": None, "owner": None},
        "release": {"name": source_set, "description": None},
        "sourceset": {"modelId": source.model, "name": source_set, "releaseName": source_set},
        "source": {"modelId": source.model, "id": source.source, "setName": source_set, "layer": layer},
    }.items():
        write_text(root / f"{name}.jsonl", json.dumps(values) + "\n")


def _write(folder: Path, start: int, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write the batch that begins at a line. Equal lines give equal bytes: no time and no name in the gzip header."""

    def compress(path: Path) -> None:
        with path.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
            for line in lines:
                packed.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    write_atomically(folder / f"batch-{start // _SIZE}.jsonl.gz", compress)


def _name(row: Mapping[str, Any], source: Source) -> dict[str, str]:
    return {"modelId": source.model, "layer": source.source, "index": str(row["feature"])}


def _feature(row: Mapping[str, Any], source: Source) -> dict[str, Any]:
    measured = {"maxActApprox": row["max_activation"], "frac_nonzero": row["density"]}
    histogram = {"freq_hist_data_bar_values": row["histogram_activations"], "freq_hist_data_bar_heights": row["histogram_counts"]}
    return {**_name(row, source), **measured, **histogram, **dict.fromkeys(_UNKNOWN)}


def _explanation(row: Mapping[str, Any], text: str, source: Source) -> dict[str, Any]:
    return {**_name(row, source), "description": text, "typeName": None, "explanationModelName": None}


def example_lines(rows: pl.DataFrame, source: Source, activations: pl.DataFrame | None) -> Iterator[dict[str, Any]]:
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
                **_name(row, source),
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
