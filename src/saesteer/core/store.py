"""The part store: rows that cost time or money, in immutable Parquet parts that only ever get added.

    <step folder>/<fingerprint>/fingerprint.json            what the rows depend on besides their keys, spelt out
    <step folder>/<fingerprint>/layer_05/<SHA-256>.parquet  a part, named by the digest of its bytes
    <step folder>/<job>.json                                the manifest: which parts hold the wanted keys of a job's layers, or of
                                                            a share of their features (<layers>_features_<first>.json)

A job's work is `wanted keys - keys present`. Nobody appends to or edits a part, so a kill loses at most the part in flight, an added
feature computes itself and nothing else, and a shared part is never written through a link. A part whose bytes do not match its name is
named in the log, set aside, and computed again. Readers go through a manifest and see the wanted keys only.

A row that is measured on rows of earlier steps (a text's perplexity, a text's rating) carries their digest in a further column,
`measured_on`. A row whose digest is another than that of the rows that serve now counts as missing: after a merge of two machines' parts,
or when a damaged part was made again elsewhere, no number stands beside a text that it was not measured on. The manifest says which rows
of its parts serve, and from which rows of the earlier steps' manifests they were measured; `read_rows` refuses it when those have changed.
"""

import contextlib
import functools
import hashlib
import io
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.errors import SaesteerError
from saesteer.core.files import file_digest, remove_abandoned, value_digest, write_atomically, write_json
from saesteer.core.tables import Table, validate

FINGERPRINT_DIGITS = 16
MEASURED_ON = "measured_on"
SHARE = "_features_"
"""In a manifest's name between the job's layers and where its share of their features begins."""
_FINGERPRINT = "fingerprint.json"
_MADE_WITH = "saesteer"
"""Key in a part's Parquet metadata whose value says what made the part."""

log = logging.getLogger(__name__)


class StoreError(SaesteerError, RuntimeError):
    """Parts or a manifest that cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class Upstream:
    """The rows of earlier steps that one layer's rows are measured on."""

    digests: Sequence[pl.DataFrame]
    """For each table read: some of the key columns, and MEASURED_ON, the digest of the rows behind these keys; empty, in the last ones, for
    rows that do not depend on the table."""
    entries: Mapping[str, str]
    """Earlier step -> digest of the rows that its manifest names."""


@dataclass(frozen=True)
class WantedRows:
    """The keys wanted of one layer: every combination of the rows of the axes, which are frames of one or more key columns. `fingerprint`
    spells out what its rows depend on."""

    layer: int
    axes: Sequence[pl.DataFrame]
    fingerprint: Mapping[str, Any]
    upstream: Upstream | None = None

    @property
    def fingerprint_digest(self) -> str:
        return value_digest(self.fingerprint)[:FINGERPRINT_DIGITS]

    def keys(self, table: Table) -> pl.DataFrame:
        """One row a key, in the order of the axes."""
        axes = (axis.cast({name: table.key_schema[name] for name in axis.columns}) for axis in self.axes)
        layer = pl.DataFrame({"layer": [self.layer]}, schema={"layer": table.key_schema["layer"]})
        return functools.reduce(lambda frame, axis: frame.join(axis, how="cross"), axes, layer).select(table.keys)

    def stored_keys(self, table: Table) -> list[str]:
        """The columns by which a part's row is known to be the one wanted."""
        return [*table.keys, *([MEASURED_ON] if self.upstream else [])]

    def with_digests(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows with the digest of what they are measured on, where they are measured on anything."""
        if self.upstream is None:
            return rows
        names = [f"{MEASURED_ON}_{number}" for number in range(len(self.upstream.digests))]
        joined = rows
        for name, digests in zip(names, self.upstream.digests, strict=True):
            on = [column for column in digests.columns if column != MEASURED_ON]
            joined = joined.join(digests.rename({MEASURED_ON: name}), on=on, how="left", maintain_order="left")
        joined = joined.with_columns(pl.concat_str(names, separator=" ").str.strip_chars_end().alias(MEASURED_ON)).drop(names)
        if joined[MEASURED_ON].null_count():
            first = joined.filter(pl.col(MEASURED_ON).is_null()).row(0, named=True)
            raise StoreError(f"layer {self.layer}: of what an earlier step should have computed, a row is missing for {first}: run again")
        return joined


def complete(
    folder: Path,
    table: Table,
    wanted: Sequence[WantedRows],
    compute: Callable[[pl.DataFrame], Iterable[pl.DataFrame]],
    manifest: Path,
    part_seconds: float = 60.0,
    made_with: Callable[[], Mapping[str, str]] = dict,
) -> int:
    """Compute the wanted keys that no part holds, write them as parts, then write the manifest. Gives the number of rows computed.

    `compute` gets the missing keys (never an empty frame) and yields finished rows, one layer in each frame; whatever it has yielded is
    kept even when it fails later. `made_with` gives what is recorded in each new part: versions of the code and of the libraries. A job
    with nothing missing calls neither.
    """
    absent = []
    for want in wanted:
        layer_folder = _layer_folder(folder, want)
        remove_abandoned(layer_folder)
        parts = set(layer_folder.glob("*.parquet"))  # first: another job of the layer may write one in the meantime
        sound = sound_parts(layer_folder)
        for part in sorted(parts - set(sound)):
            aside = part.with_suffix(".parquet.corrupt")
            with contextlib.suppress(FileNotFoundError):  # another job of the layer did
                part.replace(aside)
            damage = "its bytes do not match its name, so it was damaged or edited"
            log.warning("%s: %s; set aside as %s, its rows count as missing", part, damage, aside.name)
        absent.append(_absent_keys(table, want, sound))
    todo = pl.concat(absent)
    n_keys = sum(math.prod(axis.height for axis in want.axes) for want in wanted)
    log.info("%s: %d keys wanted, %d to compute", table.name, n_keys, todo.height)
    if not todo.is_empty():
        _write_parts(folder, table, wanted, compute(todo), part_seconds, made_with())
    write_json(manifest, {"step": table.name, "layers": {str(want.layer): _describe(folder, table, want) for want in wanted}})
    return todo.height


def missing_keys(folder: Path, table: Table, want: WantedRows) -> pl.DataFrame:
    """The wanted keys that no sound part holds, in wanted order."""
    return _absent_keys(table, want, sound_parts(_layer_folder(folder, want)))


def _absent_keys(table: Table, want: WantedRows, parts: Sequence[Path]) -> pl.DataFrame:
    keys = want.keys(table)
    if not parts:
        return keys
    stored = want.stored_keys(table)
    present = pl.concat([pl.read_parquet(part, columns=stored) for part in parts])
    return want.with_digests(keys).join(present, on=stored, how="anti", maintain_order="left").select(table.keys)


def sound_parts(folder: Path) -> list[Path]:
    """The folder's parts by name, of those whose bytes match their name. Changes nothing: a dry run asks too."""
    return [part for part in sorted(folder.glob("*.parquet")) if file_digest(part) == part.stem]


def _layer_folder(folder: Path, want: WantedRows) -> Path:
    return folder / want.fingerprint_digest / f"layer_{want.layer:02d}"


def _write_parts(
    folder: Path,
    table: Table,
    wanted: Sequence[WantedRows],
    frames: Iterable[pl.DataFrame],
    part_seconds: float,
    made_with: Mapping[str, str],
) -> None:
    """Collect finished rows into parts of `part_seconds` of work, each of one layer; on a failure what is finished is written first."""
    by_layer = {want.layer: want for want in wanted}
    waiting: dict[int, list[pl.DataFrame]] = {}
    started = time.monotonic()
    try:
        for frame in frames:
            rows = validate(table, table.of(frame), f"new rows of {folder}")
            waiting.setdefault(rows["layer"][0], []).append(rows)
            if time.monotonic() - started > part_seconds:
                while waiting:
                    _write_part(folder, table, by_layer, waiting.pop(next(iter(waiting))), made_with)
                started = time.monotonic()
    finally:
        for layer_frames in waiting.values():
            _write_part(folder, table, by_layer, layer_frames, made_with)


def _write_part(
    folder: Path, table: Table, by_layer: Mapping[int, WantedRows], frames: Sequence[pl.DataFrame], made_with: Mapping[str, str]
) -> None:
    rows = validate(table, pl.concat(frames), f"new rows of {folder}").sort(table.keys)
    want = by_layer[rows["layer"][0]]
    target = _layer_folder(folder, want)
    path = target.parent / _FINGERPRINT
    if not path.exists():
        write_json(path, want.fingerprint)
    write_part(target, want.with_digests(rows), made_with)


def write_part(folder: Path, rows: pl.DataFrame, made_with: Mapping[str, str] | None = None) -> Path:
    """Store checked and sorted rows as a part: the same rows, made with the same, have the same bytes, and so the same name."""
    buffer = io.BytesIO()
    metadata = {_MADE_WITH: json.dumps(made_with, sort_keys=True)} if made_with else None
    rows.write_parquet(buffer, compression="zstd", statistics=False, metadata=metadata)
    data = buffer.getvalue()
    path = folder / f"{hashlib.sha256(data).hexdigest()}.parquet"
    write_atomically(path, lambda partial: partial.write_bytes(data))
    return path


def _describe(folder: Path, table: Table, want: WantedRows) -> dict[str, Any]:
    """A layer's entry in the manifest."""
    parts = sound_parts(_layer_folder(folder, want))
    keys = want.keys(table)
    rows = _serving_rows(table, parts, want, keys)
    if rows.height != keys.height:
        absent = keys.join(rows, on=table.keys, how="anti")
        raise StoreError(f"{folder}: {absent.height} wanted keys were not computed, the first is {absent.row(0, named=True)}; see the log")
    nulls: dict[str, int] = {}
    if "reason" in rows.columns:
        nulls = dict(rows.drop_nulls("reason").group_by("reason").len().sort("reason").iter_rows())
    serving = {parts[number]: group["row"].to_list() for (number,), group in rows.group_by("part", maintain_order=True)}
    makers = {json.dumps(made_with(part), sort_keys=True) for part in serving}
    return {
        "fingerprint": want.fingerprint_digest,
        "rows": rows.height,
        "parts": [{"path": str(part.relative_to(folder)), "rows": _ranges(sorted(serving[part]))} for part in sorted(serving)],
        "made_with": [json.loads(text) for text in sorted(makers)],
        "nulls": nulls,
        **({MEASURED_ON: dict(want.upstream.entries)} if want.upstream else {}),
    }


def _serving_rows(table: Table, parts: Sequence[Path], want: WantedRows, keys: pl.DataFrame) -> pl.DataFrame:
    """The wanted rows with the number of the part that serves each and of the row in it: where two parts hold a key, the first by name."""
    stored, reason = want.stored_keys(table), ["reason"] if "reason" in table.columns else []
    empty = want.with_digests(keys.clear()).with_columns(*(pl.lit(None, pl.String).alias(name) for name in reason))
    empty = empty.with_columns(row=pl.lit(0, pl.UInt32), part=pl.lit(0, pl.Int32))
    frames = [
        pl.read_parquet(part, columns=[*stored, *reason])
        .select(*stored, *reason, row=pl.int_range(pl.len(), dtype=pl.UInt32), part=pl.lit(number, pl.Int32))
        .join(want.with_digests(keys), on=stored, how="semi")
        for number, part in enumerate(parts)
    ]
    return pl.concat([empty, *frames]).unique(subset=table.keys, keep="first", maintain_order=True)


def _ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Sorted row numbers as [first, one past the last] of each run."""
    starts = [number for place, number in enumerate(numbers) if place == 0 or numbers[place - 1] != number - 1]
    ends = [number + 1 for place, number in enumerate(numbers) if place == len(numbers) - 1 or numbers[place + 1] != number + 1]
    return [list(run) for run in zip(starts, ends, strict=True)]


def made_with(part: Path) -> dict[str, str]:
    """The versions of code and libraries that a part was made with; none where it does not say."""
    recorded: dict[str, str] = json.loads(pl.read_parquet_metadata(part).get(_MADE_WITH, "{}"))
    return recorded


def mixed_versions(manifests: Iterable[Path]) -> dict[str, list[str]]:
    """Library -> its versions, where the rows that the manifests name were made with several."""
    records = [record for path in manifests for entry in read_manifest(path)["layers"].values() for record in entry.get("made_with", [])]
    names = sorted({name for record in records for name in record} - {"code"})
    versions = {name: sorted({record.get(name, "unknown") for record in records}) for name in names}
    return {name: several for name, several in versions.items() if len(several) > 1}


def entry_digest(entry: Mapping[str, Any]) -> str:
    """Which rows serve a layer by its entry in a manifest, as a digest."""
    return value_digest(entry["parts"])


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest as written by `complete`."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or {"step", "layers"} - set(manifest):
        raise StoreError(f"{path} is no manifest of a step: delete it and run the workflow again; no computed row is lost")
    return manifest


def read_rows(
    table: Table, manifests: Iterable[Path], layers: Sequence[int] | None = None, columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """The wanted rows of the manifests (of some layers, some columns; keys always), sorted by key, however they were computed."""
    names = list(dict.fromkeys([*table.keys, *(columns or table.columns)]))
    frames = [pl.DataFrame(schema=table.schema).select(names)]
    read: list[str] = []
    for path in manifests:
        for layer, entry in read_manifest(path)["layers"].items():
            if layers is None or int(layer) in layers:
                frames.append(_layer_rows(table, path, int(layer), entry, names))
                read.append(layer)
    rows = pl.concat(frames).sort(table.keys)
    if len({*read}) < len(read) and rows.select(table.keys).is_duplicated().any():
        raise StoreError(f"{table.name}: jobs' manifests of other shares of the features lie side by side: run the workflow again")
    return rows


def _layer_rows(table: Table, manifest: Path, layer: int, entry: Mapping[str, Any], names: list[str]) -> pl.DataFrame:
    _refuse_changed_upstream(manifest, layer, entry)
    frames = [pl.DataFrame(schema=table.schema).select(names)]
    for part in entry["parts"]:
        path = _checked_part(manifest, part)
        stored = pl.read_parquet(path, columns=names)
        frames += [stored.slice(start, end - start) for start, end in part["rows"]]
    rows = pl.concat(frames)
    if rows.height != entry["rows"] or rows.select(table.keys).is_duplicated().any():
        raise StoreError(
            f"{manifest}: layer {layer} should have {entry['rows']} rows, each of another key; its parts hold {rows.height}: delete it and"
            " run again"
        )
    return validate(table, rows, str(manifest)) if set(names) == set(table.columns) else rows


def _checked_part(manifest: Path, part: Mapping[str, Any]) -> Path:
    """The file of a part, whose bytes have the digest that it is named by."""
    path = manifest.parent / part["path"]
    if "rows" not in part:
        raise StoreError(f"{manifest} was written by an earlier version: run the workflow again; no computed row is lost")
    if ".." in path.parts or not path.is_relative_to(manifest.parent):
        raise StoreError(f"{manifest} names {part['path']!r}, which is not below its folder: delete the manifest and run again")
    if not path.is_file():
        raise StoreError(f"{path} is missing, but {manifest} names it: delete the manifest and run again, or pull the data")
    if file_digest(path) != path.stem:
        raise StoreError(f"{path}: its bytes do not match its name: delete {manifest} and run again, and it is set aside and computed anew")
    return path


def _refuse_changed_upstream(manifest: Path, layer: int, entry: Mapping[str, Any]) -> None:
    """Refuse rows that were measured on other rows than those that serve now in the steps before; a step that is not here cannot be read
    beside them."""
    for step, digest in entry.get(MEASURED_ON, {}).items():
        folder, whole_layers = manifest.parents[1] / step, f"{manifest.stem.partition(SHARE)[0]}.json"
        earlier = next((path for path in (folder / manifest.name, folder / whole_layers) if path.is_file()), folder / manifest.name)
        if earlier.is_file() and entry_digest(read_manifest(earlier)["layers"][str(layer)]) != digest:
            raise StoreError(f"{manifest}: layer {layer} was measured on other rows than {earlier} names now: run the workflow again")


def unnamed_parts(folder: Path, manifests: Sequence[Path]) -> list[Path]:
    """Files under a step's folder that none of the step's manifests names: what `saesteer gc` lists and removes."""
    entries = [entry for manifest in manifests for entry in read_manifest(manifest)["layers"].values()]
    named = {folder / part["path"] for entry in entries for part in entry.get("parts", [])}
    named |= {part.parents[1] / _FINGERPRINT for part in named}
    return sorted(path for pattern in ("*/layer_*/*", f"*/{_FINGERPRINT}") for path in folder.glob(pattern) if path not in named)
