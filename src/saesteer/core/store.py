"""The part store: rows that cost time or money, in immutable Parquet parts that only ever get added.

    <step folder>/<fingerprint>/fingerprint.json            what the rows depend on besides their keys, spelt out
    <step folder>/<fingerprint>/layer_05/<SHA-256>.parquet  a part, named by the digest of its bytes
    <step folder>/<group of layers>.json                    the manifest: which parts hold the wanted keys

A job's work is `wanted keys - keys present`. Nobody appends to or edits a part, so a kill loses at most the part in flight, an added
feature computes itself and nothing else, and a shared part is never written through a link. A part whose bytes do not match its name is
named in the log, set aside, and computed again. Readers go through a manifest and see the wanted keys only.
"""

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
_FINGERPRINT = "fingerprint.json"

log = logging.getLogger(__name__)


class StoreError(SaesteerError, RuntimeError):
    """Parts or a manifest that cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class Wanted:
    """The keys wanted of one layer: every combination of the axes' values. `fingerprint` spells out what its rows depend on.

    An axis may be of several columns that go together, its name theirs with commas ("method,factor") and its values tuples.
    """

    layer: int
    axes: Mapping[str, Sequence[Any]]
    fingerprint: Mapping[str, Any]

    @property
    def fingerprint_digest(self) -> str:
        return value_digest(self.fingerprint)[:FINGERPRINT_DIGITS]

    @property
    def n_keys(self) -> int:
        """How many keys that is, without making them."""
        return math.prod(map(len, self.axes.values()))

    def keys(self, table: Table) -> pl.DataFrame:
        """One row a key, in the order of the axes."""
        return _key_product(table, self.layer, self.axes)


def _key_product(table: Table, layer: int, axes: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    frames = [_axis(table, name.split(","), values) for name, values in {"layer": [layer], **axes}.items()]
    return functools.reduce(lambda left, right: left.join(right, how="cross"), frames).select(table.keys)


def _axis(table: Table, names: Sequence[str], values: Sequence[Any]) -> pl.DataFrame:
    schema = {name: table.key_schema[name] for name in names}
    if len(names) == 1:
        return pl.DataFrame({names[0]: values}, schema=schema)
    return pl.DataFrame([tuple(value) for value in values], schema=schema, orient="row")


def complete(
    folder: Path,
    table: Table,
    wanted: Sequence[Wanted],
    compute: Callable[[pl.DataFrame], Iterable[pl.DataFrame]],
    manifest: Path,
    part_seconds: float = 60.0,
) -> int:
    """Compute the wanted keys that no part holds, write them as parts, then write the manifest. Gives the number of rows computed.

    `compute` gets the missing keys (never an empty frame) and yields finished rows, one layer in each frame; whatever it has yielded is
    kept even when it fails later. A job with nothing missing never calls it.
    """
    for want in wanted:
        remove_abandoned(_layer_folder(folder, want))
    todo = pl.concat([_absent_keys(table, want, _set_damaged_aside(_layer_folder(folder, want))) for want in wanted])
    log.info("%s: %d keys wanted, %d to compute", table.name, sum(want.n_keys for want in wanted), todo.height)
    if not todo.is_empty():
        _write_parts(folder, table, wanted, compute(todo), part_seconds)
    write_json(manifest, {"step": table.name, "layers": {str(want.layer): _describe(folder, table, want) for want in wanted}})
    return todo.height


def missing_keys(folder: Path, table: Table, want: Wanted) -> pl.DataFrame:
    """The wanted keys that no sound part holds, in wanted order."""
    return _absent_keys(table, want, sound_parts(_layer_folder(folder, want)))


def _absent_keys(table: Table, want: Wanted, parts: Sequence[Path]) -> pl.DataFrame:
    keys = want.keys(table)
    if not parts:
        return keys
    present = pl.concat([pl.read_parquet(part, columns=list(table.keys)) for part in parts])
    return keys.join(present, on=table.keys, how="anti", maintain_order="left")


def sound_parts(folder: Path) -> list[Path]:
    """The folder's parts by name, of those whose bytes match their name. Changes nothing: a dry run asks too."""
    return [part for part in sorted(folder.glob("*.parquet")) if file_digest(part) == part.stem]


def _set_damaged_aside(folder: Path) -> list[Path]:
    """Rename the folder's damaged parts; gives the sound ones, so that nobody has to digest them again."""
    sound = sound_parts(folder)
    for part in sorted(set(folder.glob("*.parquet")) - set(sound)):
        aside = part.with_suffix(".parquet.corrupt")
        part.replace(aside)
        log.warning(
            "%s: its bytes do not match its name, so it was damaged or edited; set aside as %s, its rows count as missing", part, aside.name
        )
    return sound


def _layer_folder(folder: Path, want: Wanted) -> Path:
    return folder / want.fingerprint_digest / f"layer_{want.layer:02d}"


def _write_parts(folder: Path, table: Table, wanted: Sequence[Wanted], frames: Iterable[pl.DataFrame], part_seconds: float) -> None:
    """Collect finished rows into parts of `part_seconds` of work, each of one layer; on a failure what is finished is written first."""
    by_layer = {want.layer: want for want in wanted}
    waiting: dict[int, list[pl.DataFrame]] = {}
    started = time.monotonic()
    try:
        for frame in frames:
            waiting.setdefault(frame["layer"][0], []).append(frame)
            if time.monotonic() - started > part_seconds:
                while waiting:
                    _write_part(folder, table, by_layer, waiting.pop(next(iter(waiting))))
                started = time.monotonic()
    finally:
        for layer_frames in waiting.values():
            _write_part(folder, table, by_layer, layer_frames)


def _write_part(folder: Path, table: Table, by_layer: Mapping[int, Wanted], frames: Sequence[pl.DataFrame]) -> None:
    rows = validate(table, pl.concat(frames), f"new rows of {folder}").sort(table.keys)
    want = by_layer[rows["layer"][0]]
    target = _layer_folder(folder, want)
    path = target.parent / _FINGERPRINT
    if not path.exists():
        write_json(path, want.fingerprint)
    write_part(target, rows)


def write_part(folder: Path, rows: pl.DataFrame) -> Path:
    """Store checked and sorted rows as a part: the same rows have the same bytes, and so the same name."""
    buffer = io.BytesIO()
    rows.write_parquet(buffer, compression="zstd", statistics=False)
    return write_part_bytes(folder, buffer.getvalue())


def write_part_bytes(folder: Path, data: bytes) -> Path:
    """Store bytes under their own digest: written to a temporary name, flushed, renamed."""
    path = folder / f"{hashlib.sha256(data).hexdigest()}.parquet"
    write_atomically(path, lambda partial: partial.write_bytes(data))
    return path


def _describe(folder: Path, table: Table, want: Wanted) -> dict[str, Any]:
    """A layer's entry in the manifest."""
    parts = sound_parts(_layer_folder(folder, want))
    keys = want.keys(table)
    rows = _serving_rows(table, parts, keys)
    if rows.height != keys.height:
        absent = keys.join(rows, on=table.keys, how="anti")
        raise StoreError(f"{folder}: {absent.height} wanted keys were not computed, the first is {absent.row(0, named=True)}; see the log")
    return {
        "fingerprint": want.fingerprint_digest,
        "wanted": {name: list(values) for name, values in want.axes.items()},
        "rows": rows.height,
        "parts": _part_entries(folder, parts, rows),
        "nulls": _nulls_by_reason(rows),
    }


def _serving_rows(table: Table, parts: Sequence[Path], keys: pl.DataFrame) -> pl.DataFrame:
    """The wanted rows with the number of the part that serves each: where two parts hold a key, the first by name."""
    columns = [*table.keys, *(["reason"] if "reason" in table.columns else [])]
    empty = keys.clear().with_columns(
        **({"reason": pl.lit(None, pl.String)} if "reason" in table.columns else {}), part=pl.lit(0, pl.Int32)
    )
    held = [pl.read_parquet(part, columns=columns).with_columns(part=pl.lit(number, pl.Int32)) for number, part in enumerate(parts)]
    rows = pl.concat([empty, *held]).unique(subset=table.keys, keep="first", maintain_order=True)
    return rows.join(keys, on=table.keys, how="semi")


def _part_entries(folder: Path, parts: Sequence[Path], rows: pl.DataFrame) -> list[dict[str, Any]]:
    serves = dict(rows.group_by("part").len().iter_rows())
    return [{"path": str(part.relative_to(folder)), "serves": serves[number]} for number, part in enumerate(parts) if number in serves]


def _nulls_by_reason(rows: pl.DataFrame) -> dict[str, int]:
    if "reason" not in rows.columns:
        return {}
    return dict(rows.drop_nulls("reason").group_by("reason").len().sort("reason").iter_rows())


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
    for path in manifests:
        for layer, entry in read_manifest(path)["layers"].items():
            if layers is None or int(layer) in layers:
                frames.append(_layer_rows(table, path, int(layer), entry, names))
    return pl.concat(frames).sort(table.keys)


def _layer_rows(table: Table, manifest: Path, layer: int, entry: Mapping[str, Any], names: list[str]) -> pl.DataFrame:
    parts = [manifest.parent / part["path"] for part in entry["parts"]]
    for part in parts:
        if not part.is_file():
            raise StoreError(f"{part} is missing, but {manifest} names it: delete the manifest and run again, or pull the data")
        if file_digest(part) != part.stem:
            raise StoreError(
                f"{part}: its bytes do not match its name: delete {manifest} and run again, and it is set aside and computed anew"
            )
    held = pl.concat([pl.DataFrame(schema=table.schema).select(names), *(pl.read_parquet(part, columns=names) for part in parts)])
    rows = held.unique(subset=table.keys, keep="first", maintain_order=True)
    rows = rows.join(_key_product(table, layer, entry["wanted"]), on=table.keys, how="semi")
    if rows.height != entry["rows"]:
        raise StoreError(
            f"{manifest}: layer {layer} should have {entry['rows']} rows, its parts hold {rows.height}: delete it and run again"
        )
    return validate(table, rows, str(manifest)) if set(names) == set(table.columns) else rows


def unnamed_parts(folder: Path) -> list[Path]:
    """Files under a step's folder that no manifest of the step names: what `saesteer gc` lists and removes.

    Without any manifest, parts are unfinished work that the next run goes on from: nothing is unnamed.
    """
    manifests = list(folder.glob("layers_*.json"))
    if not manifests:
        return []
    entries = [entry for manifest in manifests for entry in read_manifest(manifest)["layers"].values()]
    named = {folder / part["path"] for entry in entries for part in entry.get("parts", [])}
    named |= {part.parents[1] / _FINGERPRINT for part in named}
    return sorted(path for pattern in ("*/layer_*/*", f"*/{_FINGERPRINT}") for path in folder.glob(pattern) if path not in named)
