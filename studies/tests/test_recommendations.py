"""What `saesteer recommend` would say of each concept at a layer, with a judge and texts made by hand."""

from collections.abc import Mapping

import polars as pl
import pytest
from test_recommendation import ratings

import saesteer.report.scoring
from saesteer.analysis.recommendation import Estimate
from saesteer.cli.application import run_of
from saesteer.core.uncertainty import Interval
from saesteer.run import Run
from studies import ROOT
from studies.questions.summaries.recommendations import compute

SCORES = {("7", "1.2"): (1.5, 1.6, 0.5), ("9", "1.2"): (1.75, 1.7, 1.25), ("7", "2"): (0.5, 0.5, 2.0)}
"""Feature and factor -> its scores on the prompts that choose, that score, and that are fresh; others have 0."""


@pytest.mark.parametrize(("n_per_layer", "expected"), [(1, (7, "use", 1.6, 0.5, 1.25)), (4, (9, "use", 1.7, 1.25, 1.25))])
def test_what_is_chosen_scored_and_fresh_is_by_different_prompts(
    n_per_layer: int, expected: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: of two features that are labelled with the sea, the one candidate of the layer is 7, which has the larger example. Brute
    force takes 9."""
    run = run_of("tiny-brute", ROOT / "studies/config.yaml")
    columns = {"layer": [3, 3, 3], "feature": [7, 9, 5], "concept": ["sea", "sea", None], "explanation": [None, None, None]}
    columns |= {"top_logit_lens_tokens": [["a"], ["b"], ["sea"]], "max_activation": [9.0, 2.0, 99.0]}
    features = pl.DataFrame(columns, schema_overrides={"explanation": pl.String})
    lines = [*run.prompts(), *run.unused_prompts()]
    prompts_of = (lines[:10], lines[10:30], lines[30:])

    def scored_texts(
        run: Run, concept: str, layer: int, options: pl.DataFrame, prompts: Mapping[str, str], n_texts: int = 40
    ) -> pl.DataFrame:
        which = prompts_of.index([*prompts])
        named = options.select("name", "factor").iter_rows()
        texts = [ratings("feature", layer, *option, [SCORES.get(option, (0.0,) * 3)[which]] * 8) for option in named]
        return pl.concat([ratings("feature", layer, "", "0", [0.0] * 8), *texts])

    loss = {(3, "7", "1.2"): Estimate(0.1, Interval(0.1, 0.1), 8)}
    monkeypatch.setattr(saesteer.report.scoring, "scored_texts", scored_texts)
    monkeypatch.setattr(saesteer.report.scoring, "ordinary_losses", lambda *_: loss)
    monkeypatch.setattr("studies.questions.summaries.recommendations.N_PER_LAYER", n_per_layer)
    monkeypatch.setattr(Run, "summary", lambda *_: features)
    (row,) = compute(run, [3])["recommendations"].rows(named=True)
    assert (row["layer"], row["concept"], row["factor"], row["n"]) == (3, "sea", "1.2", 8)
    assert (row["feature"], row["verdict"]) == expected[:2]
    assert [row["score"], row["fresh"], row["best"]] == pytest.approx([*expected[2:]])
