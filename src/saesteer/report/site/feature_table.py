"""The table of all features, by columns: a browser loads those that it shows first, and searches and sorts the whole in memory."""

from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.tables import FEATURES, OUTCOMES
from saesteer.report.site.pieces import as_json, packed, write_piece

CHUNK = 1 << 16
"""Rows of a column in one piece."""
N_LOGIT_LENS_TOKENS = 8
"""Top logit-lens tokens that the table shows and searches."""
MOST_CONCEPTS = 300
"""With more different concepts than this there is no list to choose one from."""
_SCORES = {"output_score": FEATURES, "input_score": FEATURES, "density": FEATURES, "gen_success_20": OUTCOMES, "judge_score": OUTCOMES}


def write_feature_table(folder: Path, features: pl.DataFrame, outcomes: pl.DataFrame | None) -> dict[str, Any]:
    """Write the columns of FEATURES (sorted by its keys) and of the OUTCOMES by one rule; gives what the page has to know of them."""
    rows = features
    if outcomes is not None:
        measured = outcomes.select("layer", "feature", "gen_success_20", "judge_score")
        rows = features.join(measured, on=["layer", "feature"], how="left", maintain_order="left")
    numbers = [name for name in _SCORES if name in rows.columns and rows[name].null_count() < rows.height]
    # One string of lines is searched faster than a list of strings, so a text has no line ends.
    label = pl.coalesce("concept", "explanation").fill_null("").str.replace_all(r"\s", " ").alias("label")
    lens = pl.col("top_logit_lens_tokens").list.head(N_LOGIT_LENS_TOKENS).list.join(" ").str.replace_all("▁", "")
    lens = lens.str.replace_all(r"\s+", " ").str.strip_chars().alias("lens")
    for start in range(0, rows.height, CHUNK):
        part, k = rows.slice(start, CHUNK), start // CHUNK
        write_piece(folder, f"c/feature/{k}", as_json(packed(part["feature"])))
        for name in numbers:
            write_piece(folder, f"c/{name}/{k}", as_json(packed(part[name].cast(pl.Float32))))
        for name, texts in part.select(label, lens).to_dict().items():
            write_piece(folder, f"c/{name}/{k}", as_json("\n".join(texts)))
    concepts = rows["concept"].drop_nulls().str.replace_all(r"\s", " ").unique().sort()
    layers = rows.group_by("layer", maintain_order=True).len()
    return {
        "n": rows.height,
        "chunk": CHUNK,
        "layers": layers.rows(),
        "numbers": [[name, _SCORES[name].name] for name in numbers],
        "concepts": concepts.to_list() if len(concepts) <= MOST_CONCEPTS else [],
    }
