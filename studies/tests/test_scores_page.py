"""The documentation's table of scores by layer."""

from pathlib import Path

import polars as pl
import pytest

from saesteer.core.files import write_json
from saesteer.core.tables import write_summary
from saesteer.steps.features import FEATURES
from studies.pages.blocks import SCORES
from studies.pages.scores import scores_by_layer


def features(layer: int, scores: list[tuple[float | None, float, float]]) -> pl.DataFrame:
    rows = [
        {
            "layer": layer,
            "feature": feature,
            "n_examples": 1,
            "top_logit_lens_tokens": ["a"],
            "top_logit_lens_token_ids": [1],
            "input_score": given,
            "input_score_reason": None if given is not None else "fewer than 10 max-activating examples",
            "output_score": output,
            "min_rank": 0,
            "max_prob": output,
            "delta_token_confidence": confidence,
            "a_max": 1.0,
        }
        for feature, (given, output, confidence) in enumerate(scores)
    ]
    empty = dict.fromkeys(FEATURES.columns) | {"explanations": []}
    return pl.DataFrame([empty | row for row in rows], schema=FEATURES.schema)


def test_medians_and_shares_by_hand(tmp_path: Path) -> None:
    files = [tmp_path / "layer_00.parquet", tmp_path / "layer_01.parquet"]
    write_summary(FEATURES, features(0, [(1.0, 0.75, 0.5), (0.5, 0.25, -1.5), (None, 1.0, 2.5), (0.0, 0.0, 1.0)]), files[0])
    write_summary(FEATURES, features(1, [(None, 0.5, 0.0)]), files[1])
    first, second = scores_by_layer(files[::-1])
    assert (first["layer"], first["n"], first["n_without_input_score"]) == (0, 4, 1)
    assert (first["input_score"], first["output_score"], first["delta_token_confidence"]) == (0.5, 0.5, 0.75)
    assert first["share_output_high"] == 0.5  # 0.75 and 1.0 of four
    assert first["share_both_high"] == pytest.approx(1 / 3)  # of the three with both scores
    assert second["input_score"] is None
    write_json(tmp_path / "docs/scores/tiny-all.json", [first, second])
    assert SCORES.markdown(tmp_path).splitlines()[2:] == [
        "| 0 | 4 | 1 | 0.500 | 0.500 | 0.750 | 50.0% | 33.3% |",
        "| 1 | 1 | 1 | – | 0.500 | 0.000 | 0.0% | – |",
    ]
