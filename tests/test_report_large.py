"""The report of a large model's features in a real Chromium: its table is there at once and searched at once."""

# ruff: noqa: F811 (fixtures of another file)

import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from report_folders import swept
from test_report_pages import browser, opened  # noqa: F401
from test_report_pages import pytestmark as pytestmark

from saesteer.core.tables import write_summary
from saesteer.site import feature_table
from saesteer.site.feature_table import words_each
from saesteer.site.folder import write_report
from saesteer.steps.features import FEATURES

N_LARGE = (26, 16_384)
"""Layers, and features in each: Gemma 2 2B with the SAEs of width 16k."""
_LASTS = ("ble", "cker", "ding", "fer", "gon", "hin")
LARGE_WORDS = np.array([f"{first}{last}" for first in ("ba", "co", "du", "fi", "ge", "ho") for last in _LASTS])
TYPE = """async (text) => {
  const box = document.querySelector("input[type=search]"), started = performance.now();
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(box, text);
  box.dispatchEvent(new Event("input", { bubbles: true }));
  await new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn, 0)));
  return [performance.now() - started, document.querySelector(".count").textContent];
}"""
FIRST_ROW = """new MutationObserver((_, observer) => {
  if (!document.querySelector("[role=row][data-at]")) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.firstRow = performance.now(); }, 0));
}).observe(document, { childList: true, subtree: true });"""


def large_features(n_layers: int, n: int) -> pl.DataFrame:
    """A FEATURES table as large as a real model's, every feature explained."""
    rng = np.random.default_rng(0)
    total = n_layers * n
    words = LARGE_WORDS
    drawn, lens = words[rng.integers(0, len(words), (total, 7))], rng.integers(0, len(words), (total, 20))
    explanations = [" ".join(row) for row in drawn]
    columns: dict[str, Any] = {
        "layer": np.repeat(np.arange(n_layers), n),
        "feature": np.tile(np.arange(n), n_layers),
        "density": rng.beta(1, 80, total),
        "max_activation": rng.gamma(4, 5, total),
        "n_examples": np.full(total, 20),
        "explanations": [[text] for text in explanations],
        "explanation": explanations,
        "concept": explanations,
        "top_logit_lens_tokens": [list(row) for row in words[lens]],
        "top_logit_lens_token_ids": lens.tolist(),
        "input_score": rng.random(total),
        "output_score": rng.random(total) ** 6,
        "min_rank": rng.integers(0, 50, total),
        "max_prob": rng.random(total),
        "delta_token_confidence": rng.normal(size=total),
        "a_max": np.full(total, 18.3),
    }
    blank = {name: pl.Series([None] * total, dtype=dtype) for name, dtype in FEATURES.schema.items() if name not in columns}
    return pl.DataFrame(columns | blank).select(list(FEATURES.columns)).cast(FEATURES.schema)


def large_words(n_layers: int, n: int) -> pl.DataFrame:
    """Words of max-activating examples, as many of each feature as the report keeps of so many features."""
    rng, total = np.random.default_rng(1), n_layers * n
    drawn = LARGE_WORDS[rng.integers(0, len(LARGE_WORDS), (total, words_each(total)))]
    keys = {"layer": np.repeat(np.arange(n_layers), n).astype(np.uint16), "feature": np.tile(np.arange(n), n_layers).astype(np.uint32)}
    return pl.DataFrame(keys | {"words": [" ".join(row) for row in drawn]})


@pytest.mark.exhaustive
def test_a_large_models_features_are_all_there_and_found(
    tmp_path: Path, opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = large_features(*N_LARGE)
    small = swept(tmp_path / "small")
    workflow = small.workflow.model_copy(update={"data_dir": tmp_path / "data", "figures_dir": tmp_path / "figures"})
    results = replace(small, workflow=workflow)
    write_summary(FEATURES, features, results.data / "tables/features.parquet")
    words = large_words(*N_LARGE)
    monkeypatch.setattr(feature_table, "example_words", lambda run, layer, n: words.filter(layer=layer).drop("layer"))
    report = write_report(results, tmp_path / "report")
    tokens = pl.col("top_logit_lens_tokens")
    lines = ("concept", tokens.list.head(8).list.join(" "), pl.concat_str(tokens.list.slice(8).list.join(" "), "words", separator=" "))
    searched = features.join(words, on=["layer", "feature"]).select(pl.concat_str(*lines, separator="\n")).to_series()
    n_hits = {"12/345": 1}
    for needle in ("bable", "cocker du", "fi", "geding hogon bafer", "zz"):
        n_hits[needle] = searched.str.contains(needle, literal=True).sum()
    first_rows, searches = [], []
    for _ in range(3):
        page = opened(report, "features", script=FIRST_ROW)
        page.wait_for_selector("[role=row][data-at]")
        page.wait_for_timeout(200)
        first_rows.append(page.evaluate("window.firstRow"))
        page.focus("input[type=search]")  # so that the texts are loaded that only a search needs
        page.wait_for_selector(".count:has-text('being loaded')")
        page.wait_for_selector(".count:not(:has-text('being loaded'))")
        for needle, n in n_hits.items():
            took, count = page.evaluate(TYPE, needle)
            searches.append(took)
            assert count.startswith(f"{n:,} of {features.height:,} features")
    sys.stdout.write(f"first rows: {min(first_rows):.0f} ms; searches: median {statistics.median(searches):.0f} ms\n")  # docs/report.md
