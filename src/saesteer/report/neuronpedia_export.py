"""Our records in the form of Neuronpedia's exports."""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.files import write_atomically, write_text
from saesteer.core.tables import ACTIVATIONS, RECORDS
from saesteer.run import Run
from saesteer.sources.neuronpedia.sources import Source, named_sources

_SIZE = 1024


def write_export(records: pl.DataFrame, source: Source, folder: Path, activations: pl.DataFrame | None = None) -> None:
    """Write one layer's RECORDS rows as `folder`/v1/{model}/{source}/..., as Neuronpedia exports a source.

    A record's values are those of its text in the layer's ACTIVATIONS rows; without these only the maximum is known, and the others are
    null. What we do not have (histograms, similar features, promoted tokens) is null or left out.
    """
    place = folder / "v1" / source.model / source.source
    ordered = records.sort("feature")
    features = sorted(ordered.iter_rows(named=True), key=lambda row: str(row["feature"]))
    lines = (_feature(row, source) for row in features)
    for number, batch in enumerate(_chunks(lines)):
        _write(place / "features", number, batch)
    explained = (_explanation(row, text, source) for row in features for text in row["explanations"])
    for number, batch in enumerate(_chunks(explained)):
        _write(place / "explanations", number, batch)
    for (number,), rows in ordered.group_by(pl.col("feature") // _SIZE, maintain_order=True):
        _write(place / "activations", int(str(number)), record_lines(rows, source, activations))
    _write_names(place, source)


def export_records(run: Run, folder: Path, source: str | None) -> dict[int, Source]:
    """Export the records of a finished experiment; gives layer -> the source written.

    `source` names them (model/source, `{layer}` for the layer); None takes the experiment's own Neuronpedia source.
    """
    sources = named_sources(run.experiment, run.layers, source)
    for layer, named in sources.items():
        activations = run.rows(ACTIVATIONS, [layer]) if run.has_rows(ACTIVATIONS, layer) else None
        write_export(run.rows(RECORDS, [layer]), named, folder, activations)
    return sources


def _write_names(place: Path, source: Source) -> None:
    """The four small files that name model, release, source set and source."""
    layer, _, source_set = source.source.partition("-")
    names = {
        "model": {"id": source.model, "layers": None, "owner": None},
        "release": {"name": source_set, "description": None},
        "sourceset": {"modelId": source.model, "name": source_set, "releaseName": source_set},
        "source": {"modelId": source.model, "id": source.source, "setName": source_set, "layer": layer},
    }
    for name, values in names.items():
        write_text(place / f"{name}.jsonl", json.dumps(values) + "\n")


def _chunks(lines: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    waiting = iter(lines)
    while batch := list(islice(waiting, _SIZE)):
        yield batch


def _write(folder: Path, number: int, lines: Iterable[Mapping[str, Any]]) -> None:
    write_atomically(folder / f"batch-{number}.jsonl.gz", partial(_compress, lines))


def _compress(lines: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Equal lines give equal bytes: no time and no name in the gzip header."""
    with path.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        for line in lines:
            packed.write(json.dumps(line, allow_nan=False).encode() + b"\n")


def _name(row: Mapping[str, Any], source: Source) -> dict[str, str]:
    return {"modelId": source.model, "layer": source.source, "index": str(row["feature"])}


def _feature(row: Mapping[str, Any], source: Source) -> dict[str, Any]:
    return {
        **_name(row, source),
        "maxActApprox": row["max_activation"],
        "frac_nonzero": row["density"],
        **dict.fromkeys(("pos_str", "pos_values", "neg_str", "neg_values")),
        **dict.fromkeys(("freq_hist_data_bar_heights", "freq_hist_data_bar_values")),
        **dict.fromkeys(("logits_hist_data_bar_heights", "logits_hist_data_bar_values")),
        **dict.fromkeys(("topkCosSimIndices", "topkCosSimValues", "hookName")),
    }


def _explanation(row: Mapping[str, Any], text: str, source: Source) -> dict[str, Any]:
    return {**_name(row, source), "description": text, "typeName": None, "explanationModelName": None}


def record_lines(rows: pl.DataFrame, source: Source, activations: pl.DataFrame | None) -> Iterator[dict[str, Any]]:
    """The activation records of one layer's RECORDS rows, feature by feature."""
    codes = {} if activations is None else _codes(rows, activations)
    for row in rows.iter_rows(named=True):
        for record in row["records"]:
            known = None if activations is None else codes.get((record["text_id"], row["feature"]), {})
            yield {**_name(row, source), **_record(record, known)}


def _codes(rows: pl.DataFrame, activations: pl.DataFrame) -> dict[tuple[str, int], dict[int, float]]:
    """(text_id, feature) -> position -> code, of the rows' records."""
    wanted = rows.select("feature", text_id=pl.col("records").list.eval(pl.element().struct.field("text_id"))).explode("text_id")
    long = activations.select("text_id", "token_index", "feature", "value").explode("token_index", "feature", "value")
    codes: dict[tuple[str, int], dict[int, float]] = {}
    for text, position, feature, value in long.join(wanted, on=["text_id", "feature"], how="semi").iter_rows():
        codes.setdefault((text, feature), {})[position] = value
    return codes


def _record(record: Mapping[str, Any], codes: Mapping[int, float] | None) -> dict[str, Any]:
    """A record's own fields. The maximum is always there; other positions are 0 where the codes of the text are known, else null."""
    n = len(record["context"])
    known = {} if codes is None else dict.fromkeys(range(n), 0.0) | dict(codes)
    known[record["token_index"]] = record["max_value"]
    return {
        "id": record["text_id"],
        "dataSource": None,
        "tokens": record["context"],
        "values": [known.get(position) for position in range(n)],
        "maxValue": record["max_value"],
        "maxValueTokenIndex": record["token_index"],
        "minValue": None if codes is None else min(known.values()),
        **dict.fromkeys(("binMin", "binMax", "binContains")),
        "dfaValues": [],
    }
